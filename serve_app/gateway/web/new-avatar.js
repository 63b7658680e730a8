/** A photo of the person's own becomes an avatar. */

import { storedToken } from "./settings.js";

/** It takes a few seconds; a busy server lets uploads wait for each other. */
const TIMEOUT_MS = 120_000;

/** The server's own limit. */
const MAX_BYTES = 10_000_000;

/**
 * Send a photo.
 *
 * @param {File} photo
 * @returns {Promise<string>} the new avatar's id
 * @throws {Error} with a sentence for people: the photo cannot become an avatar, or the server cannot make one
 */
export async function uploadPhoto(photo) {
  if (photo.size > MAX_BYTES) throw new Error(`The photo has ${Math.ceil(photo.size / 1e6)} MB; at most 10 are taken.`);
  const body = new FormData();
  body.append("file", photo);
  /** @type {Record<string, string>} */
  const headers = storedToken() ? { "x-api-key": storedToken() } : {};
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const response = await fetch("v1/avatars/upload-face", { method: "POST", body, headers, signal });
  const answer = await response.json().catch(() => ({}));
  if (response.ok && answer.avatar_id) return answer.avatar_id;
  const { message, suggestion } = typeof answer.error === "object" ? answer.error : { message: answer.error };
  throw new Error([message ?? `the server answered ${response.status}`, suggestion].filter(Boolean).join(". "));
}
