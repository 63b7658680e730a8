/**
 * "Talk to it" and "Type to it": a conversation with the agent behind the avatar, over the door of OpenAI
 * Realtime. Typed, the call has no microphone.
 */

import { note } from "./activity-log.js";
import { CallControls } from "./call-controls.js";
import { Call } from "./call.js";
import { Conversation } from "./conversation.js";
import { askForToken, showFull, showUnreachable, withdrawFull } from "./door-notices.js";
import { inWords } from "./errors.js";
import { on } from "./events.js";
import { MediaView } from "./media-view.js";
import { Microphone, MicrophoneError } from "./microphone.js";
import { showHint, showNotice, withdrawNotice } from "./notices.js";
import { element } from "./page.js";
import { RealtimePeer } from "./realtime-peer.js";
import { storedToken } from "./settings.js";
import { levelOf } from "./speech-pcm.js";
import { showLight, showSession } from "./status-panel.js";
import { Tools } from "./tools.js";
import { Transcript } from "./transcript.js";

/** Kinds of notices about a call, which a new one makes untrue. */
const CALL_NOTICES = ["token", "refused", "server", "ended", "microphone"];

/** A server that does not answer is asked again so soon. */
const RETRY_MS = 3000;

/** @type {Record<import("./conversation.js").Turn, string>} */
const TURN_WORDS = {
  connecting: "Connecting",
  listening: "Listening",
  hearing: "Hearing you",
  thinking: "Thinking",
  speaking: "Speaking",
  waiting: "Ready",
};

/** @implements {import("./app.js").Way} */
export class CallWay {
  /** @param {import("./app.js").Shared} shared */
  constructor({ stage, latency, settings, avatarId }) {
    this.stage = stage;
    this.latency = latency;
    this.settings = settings;
    this.avatarId = avatarId;
    this.hears = false;
    /** Counts entrances: what began in an earlier one is out of date. */
    this.visit = 0;
    this.turnsSent = 0;
    this.retryTimer = 0;
    /** @type {string | null} */
    this.sessionId = null;
    /** @type {"closed" | "connecting" | "open"} */
    this.link = "closed";
    this.farewell = "";
    /** @type {Microphone | null} */
    this.microphone = null;
    this.controls = new CallControls(settings);
    this.transcript = new Transcript();
    this.conversation = new Conversation(new Tools());
    this.call = new Call(() => this.#makePeer());
    this.media = new MediaView(this.call, stage, () => settings.video.fps);
    this.#wire();
  }

  get speaking() {
    return this.conversation.turn === "speaking";
  }

  get busy() {
    return this.conversation.isBusy;
  }

  /** @param {{hears: boolean}} how whether the person talks, or types only */
  async enter({ hears }) {
    this.hears = hears;
    this.transcript.clear();
    await this.#begin();
  }

  leave() {
    this.visit += 1;
    clearTimeout(this.retryTimer);
    this.#endCall();
    withdrawFull();
    withdrawNotice("media", ...CALL_NOTICES);
  }

  reconnect() {
    if (this.link !== "open" && this.call.peer) this.call.renew();
  }

  interrupt() {
    if (!this.busy) return;
    note("Interrupted.");
    this.conversation.interrupt();
  }

  /** Make a call, with the microphone if it is wanted. */
  async #begin() {
    const visit = ++this.visit;
    clearTimeout(this.retryTimer);
    withdrawFull();
    withdrawNotice(...CALL_NOTICES);
    if (this.settings.token_required && !storedToken()) {
      this.#askForToken();
      return;
    }
    if (this.hears && !this.microphone && !(await this.#openMicrophone(visit))) return;
    if (visit !== this.visit) return;
    note(this.hears ? "Calling the avatar with your microphone." : "Calling the avatar.");
    this.call.renew();
  }

  /** @param {number} visit */
  async #openMicrophone(visit) {
    this.#showLink("connecting", "asks for the microphone");
    try {
      const opened = await Microphone.open((samples) => this.#heard(samples));
      if (visit !== this.visit) {
        await opened.close();
        return false;
      }
      this.microphone = opened;
      on(opened, "ended", () => this.#microphoneFailed("The microphone went away", "Plug it in again, or type instead."));
      this.controls.unmute();
      this.#listen(!this.controls.pushToTalk);
      return true;
    } catch (error) {
      const { message, remedy } = MicrophoneError.of(error);
      if (visit === this.visit) this.#microphoneFailed(message, remedy);
      return false;
    }
  }

  /**
   * @param {string} title
   * @param {string} remedy
   */
  #microphoneFailed(title, remedy) {
    this.#endCall();
    note(`${title}. ${remedy}`, { bad: true });
    showNotice({
      kind: "microphone",
      title,
      why: remedy,
      remedies: ["Without a microphone, use “Type to it”."],
      action: { label: "Try again", run: () => this.#begin() },
    });
  }

  #closeMicrophone() {
    this.microphone?.close();
    this.microphone = null;
    this.controls.level = 0;
  }

  /** @param {Int16Array} samples */
  #heard(samples) {
    this.controls.level = levelOf(samples);
  }

  /** @param {boolean} on whether the microphone's sound goes out */
  #listen(on) {
    const track = this.microphone?.stream.getAudioTracks()[0];
    if (track) track.enabled = on;
  }

  #makePeer() {
    const microphone = this.microphone?.stream.getAudioTracks()[0] ?? null;
    const session = { audio: { output: { voice: this.controls.voice } } };
    const peer = new RealtimePeer({ avatarId: this.avatarId(), session, microphone });
    this.conversation.end();
    this.transcript.divide("A new call");
    this.conversation.begin((event) => peer.send(event), this.hears);
    this.farewell = "";
    this.#showLink("connecting", "connecting");
    on(peer, "open", () => this.#showLink("open", "open"));
    on(peer, "event", (event) => this.conversation.receive(event));
    on(peer, "closed", () => this.#ended(peer));
    return peer;
  }

  /** @param {RealtimePeer} peer whose channel the server closed */
  #ended(peer) {
    peer.ended();
    this.#endCall();
    const why = this.farewell || "The server ended it, or lost it.";
    note(`The call has ended. ${why}`, { bad: true });
    showNotice({ kind: "ended", title: "The call has ended", why, action: { label: "Call again", run: () => this.#begin() } });
  }

  #endCall() {
    this.#closeMicrophone();
    this.call.stop();
    this.conversation.end();
    this.sessionId = null;
    this.latency.stopped();
    showSession(null);
    this.#showLink("closed", "closed");
  }

  #wire() {
    const { call, controls, conversation, latency } = this;
    on(call, "refused", ({ error }) => this.#refused(error));
    on(call, "media", () => this.#showTurn());
    on(this.media, "change", () => this.#showOverall());

    on(conversation, "turn", () => this.#showTurn());
    on(conversation, "entry", (entry) => this.transcript.show(entry));
    on(conversation, "sent", () => latency.begin(++this.turnsSent, performance.now()));
    on(conversation, "sound", ({ on: isHeard }) => (isHeard ? latency.started(this.turnsSent) : latency.stopped()));
    on(conversation, "fault", (fault) => this.#fault(fault));
    on(conversation, "ready", ({ sessionId }) => {
      this.sessionId = sessionId;
      showSession(sessionId);
      note("Connected. The conversation is open.");
    });

    on(controls, "write", ({ text }) => conversation.write(text));
    on(controls, "voice", ({ voice }) => {
      note(`The voice is ${voice} from now on.`);
      if (call.peer) this.#begin();
    });
    on(controls, "mute", ({ muted }) => {
      this.#listen(!muted);
      conversation.muted = muted;
    });
    on(controls, "push-to-talk", ({ on: isOn }) => {
      this.#listen(!isOn);
      conversation.setPushToTalk(isOn);
    });
    on(controls, "press", () => (this.#listen(true), conversation.press()));
    on(controls, "release", () => (conversation.release(), this.#listen(false)));
  }

  /** @param {import("./door-error.js").DoorError} error */
  #refused(error) {
    this.#endCall();
    if (error.status === 401) {
      this.#askForToken();
      return;
    }
    const waitMs = error.status === 0 ? RETRY_MS : error.retryAfterS * 1000;
    if (waitMs > 0) this.retryTimer = setTimeout(() => this.#begin(), waitMs);
    const { title, text } = inWords(error.code, error.message);
    if (error.status === 0) showUnreachable(waitMs, () => this.#begin());
    else if (error.code === "session_limit_reached") showFull(waitMs, () => this.#begin());
    else {
      note(`${title}: ${text}`, { bad: true });
      showNotice({ kind: "refused", title, why: text, action: { label: "Call again", run: () => this.#begin() } });
    }
  }

  #askForToken() {
    this.#showLink("closed", "needs a key");
    askForToken(() => this.#begin());
  }

  /** @param {{code: string, message: string}} fault */
  #fault({ code, message }) {
    const { title, text } = inWords(code, message);
    note(`${title}: ${text}`, { bad: true });
    if (code === "session_expired") this.farewell = text;
    else showHint(title, text);
  }

  /**
   * @param {"closed" | "connecting" | "open"} link
   * @param {string} text
   */
  #showLink(link, text) {
    this.link = link;
    showLight("socket", text, link === "open" ? "good" : link === "connecting" ? "wait" : "bad");
    this.#showTurn();
  }

  #showTurn() {
    const { turn, isReady, isBusy } = this.conversation;
    const badge = element("turn");
    badge.dataset.turn = turn;
    if (badge.textContent !== TURN_WORDS[turn]) badge.textContent = TURN_WORDS[turn];
    this.stage.speaking = turn === "speaking";
    this.controls.show(isReady, isBusy);
    this.#showOverall();
  }

  #showOverall() {
    const { call, conversation } = this;
    if (call.media === "playing" && conversation.isReady) {
      showLight("overall", conversation.turn === "speaking" ? "Speaking" : "Live", "good");
    } else if (this.link === "closed") showLight("overall", "Not connected", "bad");
    else if (call.ice === "failed" || call.media === "stalled" || call.troubled) showLight("overall", "No picture", "bad");
    else showLight("overall", "Connecting", "wait");
  }
}
