/** Cards for what can stand in the way of any door: a key, a full server, no server. */

import { note } from "./activity-log.js";
import { showNotice, updateNotice, withdrawNotice } from "./notices.js";
import { storeToken, storedToken } from "./settings.js";

let countdown = 0;

/**
 * Ask for an API key, and go on with it.
 *
 * @param {() => void} retry
 */
export function askForToken(retry) {
  const wasGiven = Boolean(storedToken());
  showNotice({
    kind: "token",
    title: "This server asks for an API key",
    why: wasGiven
      ? "The key was not accepted. Check that it is complete."
      : "Whoever runs the server can give you one. It stays in this page and is forgotten when you leave.",
    question: {
      label: "API key",
      submit: (token) => {
        storeToken(token);
        withdrawNotice("token");
        retry();
      },
    },
  });
}

/**
 * Say that there is no place, and count down to the next attempt, which the caller makes.
 *
 * @param {number} retryInMs
 * @param {() => void} retry at once
 */
export function showFull(retryInMs, retry) {
  const untilMs = performance.now() + retryInMs;
  const words = () => {
    const leftS = Math.max(0, Math.ceil((untilMs - performance.now()) / 1000));
    return leftS > 0 ? `Every place is taken. The page tries again in ${leftS} s.` : "Trying again now…";
  };
  note("The server is full; waiting for a place.", { bad: true });
  showNotice({ kind: "full", title: "The server is full", why: words(), action: { label: "Try now", run: retry } });
  clearInterval(countdown);
  countdown = setInterval(() => updateNotice("full", words()), 500);
}

/** There is a place, or none is waited for any more. */
export function withdrawFull() {
  clearInterval(countdown);
  withdrawNotice("full");
}

/**
 * @param {number} retryInMs
 * @param {() => void} retry at once
 */
export function showUnreachable(retryInMs, retry) {
  showNotice({
    kind: "server",
    title: "The server does not answer",
    why: `Trying again in ${Math.ceil(retryInMs / 1000)} seconds.`,
    remedies: ["Check that the server runs and that this address and port are right.", "It may still be starting."],
    action: { label: "Try now", run: retry },
  });
}
