/** What the server says about itself, and what the address of this page asks for. */

/**
 * @typedef {object} Settings
 * @property {RTCIceServer[]} ice_servers
 * @property {{width: number, height: number, fps: number}} video
 * @property {{avatar_id: string, name: string, preview: string}[]} avatars
 * @property {boolean} uploads whether photos are taken
 * @property {string} default_avatar
 * @property {string} model
 * @property {string} agent who answers in conversations: "echo", "scripted" or "realtime"
 * @property {string[]} voices
 * @property {string} default_voice
 * @property {boolean} token_required
 * @property {{max_chunk_bytes: number, min_utterance_s: number}} limits
 */

/** The API key; it is kept nowhere else, so a reload asks for it again. */
let token = "";

/**
 * Ask the server.
 *
 * @returns {Promise<Settings>}
 * @throws {Error} when it does not answer
 */
export async function fetchSettings() {
  const response = await fetch("config.json", { cache: "no-store", signal: AbortSignal.timeout(5000) });
  if (!response.ok) throw new Error(`config.json: expected 200, got ${response.status}`);
  return response.json();
}

/**
 * The door's address.
 *
 * @param {string} avatarId
 * @returns {URL}
 */
export function doorAddress(avatarId) {
  const url = new URL("webrtc", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = "";
  url.searchParams.set("avatar", avatarId);
  if (token) url.searchParams.set("token", token);
  return url;
}

/** The avatar named in the page's address, or null. */
export function askedAvatar() {
  return new URL(location.href).searchParams.get("avatar");
}

/** The way named in the page's address, or null. */
export function askedWay() {
  return new URL(location.href).searchParams.get("way");
}

/**
 * Name the way in the page's address, so that a reload or a link finds it again.
 *
 * @param {string} way
 */
export function rememberWay(way) {
  const url = new URL(location.href);
  url.searchParams.set("way", way);
  history.replaceState(null, "", url);
}

/** @returns {string} empty: none was given */
export function storedToken() {
  return token;
}

/** @param {string} given */
export function storeToken(given) {
  token = given;
}

/** Take a key out of the page's address, so that it is neither shared nor kept in the history. */
export function takeTokenFromAddress() {
  const url = new URL(location.href);
  const given = url.searchParams.get("token");
  if (!given) return;
  storeToken(given);
  url.searchParams.delete("token");
  history.replaceState(null, "", url);
}
