/**
 * The OpenAI Realtime door over HTTP (GA): mint a key for one call, post the offer, hang up.
 *
 * Addresses are relative to the page, so that it works behind any proxy; the key that opens calls is asked for
 * with the server's API key, if it wants one, which stays in this page.
 */

import { DoorError } from "./door-error.js";
import { storedToken } from "./settings.js";

const DOOR = "v1/realtime";

/** Longest wait for an answer; a face is on its way in a tenth of a second. */
const TIMEOUT_MS = 15_000;

/**
 * @typedef {object} Minted
 * @property {string} value the key, "ek_…"
 * @property {RTCIceServer[]} ice_servers
 *
 * @typedef {object} Answered
 * @property {string} sdp
 * @property {string} location the call's own address
 */

/**
 * Mint a key for one call.
 *
 * @param {Record<string, unknown>} session its settings
 * @returns {Promise<Minted>}
 * @throws {DoorError}
 */
export async function mint(session) {
  const headers = { ...authorization(storedToken()), "content-type": "application/json" };
  const body = JSON.stringify({ session: { type: "realtime", ...session } });
  const response = await ask(`${DOOR}/client_secrets`, { method: "POST", headers, body });
  return response.json();
}

/**
 * Post an offer.
 *
 * @param {string} key minted
 * @param {string} sdp
 * @param {string} avatarId
 * @returns {Promise<Answered>}
 * @throws {DoorError}
 */
export async function postOffer(key, sdp, avatarId) {
  const headers = { ...authorization(key), "content-type": "application/sdp" };
  const address = `${DOOR}/calls?avatar=${encodeURIComponent(avatarId)}`;
  const response = await ask(address, { method: "POST", headers, body: sdp });
  const callId = response.headers.get("location")?.split("/").pop() ?? "";
  return { sdp: await response.text(), location: `${DOOR}/calls/${callId}` };
}

/**
 * Hang up; also while the page is left.
 *
 * @param {string} location of the call
 * @returns {Promise<void>} when the server has answered, if it does
 */
export async function hangUp(location) {
  const request = { method: "POST", headers: authorization(storedToken()), keepalive: true };
  // Whatever comes of it, the end of the peer tells the server as well.
  await fetch(`${location}/hangup`, request).catch(() => {});
}

/**
 * @param {string} address
 * @param {RequestInit} request
 */
async function ask(address, request) {
  let response;
  try {
    response = await fetch(address, { ...request, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch {
    throw new DoorError("No answer came.");
  }
  if (!response.ok) throw await DoorError.of(response);
  return response;
}

/**
 * @param {string | null} key
 * @returns {Record<string, string>}
 */
function authorization(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}
