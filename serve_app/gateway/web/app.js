/**
 * The page: which way the avatar is used, which avatar it is, and what is common to all ways.
 */

import { note } from "./activity-log.js";
import { CallWay } from "./call-way.js";
import { diagnose } from "./diagnosis.js";
import { showUnreachable } from "./door-notices.js";
import { on } from "./events.js";
import { isKeyed, key } from "./keying.js";
import { LipLatency } from "./latency.js";
import { uploadPhoto } from "./new-avatar.js";
import { hideHint, showHint, showNotice, withdrawNotice } from "./notices.js";
import { element } from "./page.js";
import { askedAvatar, askedWay, fetchSettings, rememberWay, takeTokenFromAddress } from "./settings.js";
import { SpeechWay } from "./speech-way.js";
import { Stage } from "./stage.js";
import { showLatency, showLight } from "./status-panel.js";

/**
 * @typedef {object} Shared what the ways share
 * @property {Stage} stage
 * @property {LipLatency} latency
 * @property {import("./settings.js").Settings} settings
 * @property {() => string} avatarId
 *
 * @typedef {object} Way a way to use the avatar, with a session of its own while it is entered
 * @property {(how: {hears: boolean}) => unknown} enter
 * @property {() => void} leave ends the session
 * @property {() => void} reconnect after the network was away
 * @property {() => void} interrupt
 * @property {import("./call.js").Call<any>} call
 * @property {import("./media-view.js").MediaView} media
 * @property {string} link state of the session's control channel
 * @property {string | null} sessionId
 * @property {boolean} speaking
 * @property {boolean} busy
 *
 * @typedef {"file" | "talk" | "type"} WayName
 */

/** @type {import("./diagnosis.js").Findings} */
const NO_WEBRTC = {
  reason: "no-webrtc",
  hasTurn: false,
  hasLocalCandidates: false,
  hasRemoteCandidates: false,
  isLocalhost: false,
  isSecure: true,
};

/** The settings are asked for again after so long when the server does not answer. */
const SETTINGS_RETRY_MS = 2000;

/** @type {WayName[]} */
const WAYS = ["file", "talk", "type"];

/** What the tile of the measured delay is called, and what to do for a first figure. */
const DELAYS = {
  file: ["Speech to lips", "speak to measure"],
  talk: ["Your turn to lips", "speak to measure"],
  type: ["Text to lips", "write to measure"],
};

const stage = new Stage();
if (isKeyed()) key(stage.video);
const latency = new LipLatency(stage.video);

/** @type {Record<WayName, Way> | null} */
let ways = null;
/** @type {WayName} */
let wayName = "file";
let avatarId = "default";
/** @type {import("./latency.js").Latency | null} */
let lastLatency = null;

/** @returns {Way | null} */
const way = () => ways && ways[wayName];

/** What tests and the curious may read; nothing here changes the page. */
const avatarPage = {
  get way() {
    return wayName;
  },
  get socket() {
    return way()?.link ?? "closed";
  },
  get ice() {
    return way()?.call.ice ?? "new";
  },
  get media() {
    return way()?.call.media ?? "none";
  },
  get fps() {
    return way()?.media.figures?.fps ?? null;
  },
  get sessionId() {
    return way()?.sessionId ?? null;
  },
  get speaking() {
    return way()?.speaking ?? false;
  },
  get turn() {
    return element("turn").dataset.turn;
  },
  get lastLatencyMs() {
    return lastLatency?.ms ?? null;
  },
  get latencySource() {
    return lastLatency?.source ?? null;
  },
};
Object.assign(window, { avatarPage });

/* Ways */

/** @param {WayName} name */
function enter(name) {
  const isTyped = name === "type";
  wayName = name;
  rememberWay(name);
  document.body.dataset.way = name;
  for (const button of document.querySelectorAll(".way")) {
    if (button.id === `way-${name}`) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
  for (const part of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-ways]"))) {
    part.hidden = !part.dataset.ways?.split(" ").includes(name);
  }
  // Beside a conversation the figures are for those who ask.
  element("status-card", HTMLDetailsElement).open = element("log-card", HTMLDetailsElement).open = name === "file";
  element("socket-title").textContent = name === "file" ? "Socket" : "Events";
  const [title, hint] = DELAYS[name];
  element("latency-title").textContent = title;
  showLatency(null, hint);
  lastLatency = null;
  element("transcript-empty").textContent = isTyped
    ? "Write something: the avatar answers, and what is said stands here."
    : "Say something: the avatar answers, and what is said stands here.";
  way()?.enter({ hears: name === "talk" });
}

function leave() {
  hideHint();
  way()?.leave();
  latency.stopped();
  stage.speaking = false;
}

/** @param {WayName} name */
function change(name) {
  if (name === wayName || !ways) return;
  leave();
  note(`Changing to “${element(`way-${name}`).textContent?.trim()}”.`);
  enter(name);
}

/** @param {import("./settings.js").Settings} known */
function wireAvatars({ avatars, default_avatar: fallback }) {
  const asked = askedAvatar();
  avatarId = avatars.find((avatar) => avatar.avatar_id === asked)?.avatar_id ?? fallback;
  const choice = element("avatar", HTMLSelectElement);
  choice.replaceChildren(...avatars.map(({ avatar_id: id, name }) => new Option(name, id, false, id === avatarId)));
  choice.onchange = () => {
    avatarId = choice.value;
    note(`Changing to ${choice.selectedOptions[0].text}.`);
    leave();
    enter(wayName);
  };
  element("avatar-choice").hidden = avatars.length < 2;
}

/** @param {import("./settings.js").Settings} known */
function wirePhotos({ uploads }) {
  const button = element("photo-button", HTMLButtonElement);
  const input = element("photo", HTMLInputElement);
  button.hidden = !uploads;
  button.onclick = () => input.click();
  input.onchange = async () => {
    const photo = input.files?.[0];
    input.value = "";
    if (!photo) return;
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    note(`Making an avatar of ${photo.name}.`);
    try {
      meet(await uploadPhoto(photo), photo.name.replace(/\.[^.]*$/, ""));
    } catch (error) {
      const { message } = /** @type {Error} */ (error);
      note(`No avatar: ${message}`, { bad: true });
      showHint("This photo did not become an avatar", message);
    } finally {
      button.disabled = false;
      button.removeAttribute("aria-busy");
    }
  };
}

/**
 * Change to a new avatar.
 *
 * @param {string} id
 * @param {string} name
 */
function meet(id, name) {
  const choice = element("avatar", HTMLSelectElement);
  choice.append(new Option(name || id, id));
  choice.value = id;
  choice.dispatchEvent(new Event("change"));
  element("avatar-choice").hidden = false;
}

/* What is common */

on(latency, "measured", (/** @type {import("./latency.js").Latency} */ measured) => {
  lastLatency = measured;
  showLatency(measured);
});

on(stage, "sound", ({ blocked }) => blocked && note("The browser holds sound back until you press something."));

async function copySession() {
  const sessionId = way()?.sessionId;
  if (!sessionId) return;
  try {
    await navigator.clipboard.writeText(sessionId);
    note("The session id is copied.");
  } catch {
    // Without HTTPS there is no clipboard to write to; the selected text can still be copied by hand.
    getSelection()?.selectAllChildren(element("session"));
    note("The session id is selected; copy it with Ctrl+C.");
  }
}

/* Start */

async function start() {
  if (!("RTCPeerConnection" in window)) {
    showNotice({ kind: "browser", ...diagnose(NO_WEBRTC) });
    showLight("overall", "Not supported", "bad");
    return;
  }
  let settings;
  try {
    settings = await fetchSettings();
  } catch {
    const timer = setTimeout(start, SETTINGS_RETRY_MS);
    showUnreachable(SETTINGS_RETRY_MS, () => (clearTimeout(timer), start()));
    return;
  }
  withdrawNotice("server");
  wireAvatars(settings);
  wirePhotos(settings);
  const shared = { stage, latency, settings, avatarId: () => avatarId };
  const [speech, call] = [new SpeechWay(shared), new CallWay(shared)];
  ways = { file: speech, talk: call, type: call };
  const asked = WAYS.find((name) => name === askedWay());
  enter(asked ?? "file");
}

for (const name of WAYS) element(`way-${name}`).onclick = () => change(name);
element("copy").onclick = copySession;
element("interrupt").onclick = () => way()?.interrupt();
document.addEventListener("keydown", (event) => event.key === "Escape" && way()?.interrupt());
takeTokenFromAddress();
addEventListener("online", () => way()?.reconnect());
addEventListener("pagehide", leave);
addEventListener("pageshow", (event) => event.persisted && enter(wayName));
start();
