/**
 * "Speak a file": the speech is this page's own, a sample, a file or the microphone, and the avatar says it.
 * The door is document 000's: a socket with the speech, a peer with the face.
 */

import { note } from "./activity-log.js";
import { Call } from "./call.js";
import { askForToken, showFull, showUnreachable, withdrawFull } from "./door-notices.js";
import { inWords } from "./errors.js";
import { on } from "./events.js";
import { MediaView } from "./media-view.js";
import { showHint, showNotice, withdrawNotice } from "./notices.js";
import { doorAddress, storedToken } from "./settings.js";
import { SignalledPeer } from "./signalled-peer.js";
import { SessionSocket } from "./socket.js";
import { SpeechControls } from "./speech-controls.js";
import { showLight, showSession } from "./status-panel.js";
import { Utterances } from "./utterances.js";

/** Kinds of notices about the session, which a new one makes untrue. */
const SESSION_NOTICES = ["token", "refused", "server", "taken"];

/** @implements {import("./app.js").Way} */
export class SpeechWay {
  /** @param {import("./app.js").Shared} shared */
  constructor({ stage, latency, settings, avatarId }) {
    this.settings = settings;
    this.stage = stage;
    this.latency = latency;
    this.everEstablished = false;
    this.wasSpeaking = false;
    /** @type {RTCIceServer[]} */
    this.iceServers = [];
    this.socket = new SessionSocket(() => doorAddress(avatarId()));
    this.call = new Call(() => new SignalledPeer(this.iceServers, (message) => this.socket.send(message)));
    this.media = new MediaView(this.call, stage, () => this.socket.session?.video?.fps ?? settings.video.fps);
    this.utterances = new Utterances(this.socket, () => settings.limits.min_utterance_s);
    this.controls = new SpeechControls(this.utterances, stage.box);
    this.#wire();
  }

  get link() {
    return this.socket.state;
  }

  get sessionId() {
    return this.socket.session?.session_id ?? null;
  }

  get speaking() {
    return this.utterances.speaking;
  }

  get busy() {
    return this.utterances.busy || Boolean(this.controls.microphone);
  }

  enter() {
    this.everEstablished = false;
    note("Opening a session.");
    if (this.settings.token_required && !storedToken()) this.#askForToken();
    else this.socket.connect();
  }

  leave() {
    this.controls.stopMicrophone();
    this.call.stop();
    this.utterances.reset();
    this.socket.leave();
    withdrawFull();
    withdrawNotice("media", ...SESSION_NOTICES);
    showSession(null);
  }

  /** The page may have had no network; a socket of the network before is dead. */
  reconnect() {
    if (["waiting", "open"].includes(this.socket.state)) this.socket.connect();
  }

  interrupt() {
    this.controls.interrupt();
  }

  #wire() {
    const { socket, call, utterances, latency } = this;
    on(socket, "state", ({ state, retryInMs }) => {
      this.#showSocket(state, retryInMs);
      if (state === "full") showFull(retryInMs, () => socket.connect());
      else if (state !== "connecting") withdrawFull();
    });
    on(socket, "established", (session) => this.#established(session));
    on(socket, "lost", () => {
      note("The server no longer has the session; opening a new one.", { bad: true });
      utterances.reset();
      showSession(null);
    });
    on(socket, "taken", () => this.#taken());
    on(socket, "message", (message) => this.#receive(message));

    on(call, "media", () => this.#showControls());
    on(call, "unreachable", () => socket.state === "open" && socket.connect());
    on(this.media, "change", () => this.#showOverall());

    on(utterances, "sending", ({ index, voiceAtMs }) => latency.begin(index, voiceAtMs));
    on(utterances, "interrupted", () => latency.stopped());
    on(utterances, "change", () => {
      if (this.wasSpeaking && !utterances.speaking) latency.stopped();
      this.wasSpeaking = utterances.speaking;
      this.stage.speaking = utterances.speaking;
      this.#showControls();
      this.#showOverall();
    });
  }

  /** @param {import("./socket.js").Established & {awayMs: number}} session */
  #established(session) {
    this.everEstablished = true;
    withdrawFull();
    withdrawNotice(...SESSION_NOTICES);
    showSession(session.session_id);
    if (session.resumed) note(`Back in the same session after ${(session.awayMs / 1000).toFixed(1)} s.`);
    else note("Connected. A new session is open.");
    this.iceServers = session.ice_servers ?? this.settings.ice_servers;
    // The server still holds the other end of a peer that plays.
    if (!session.resumed || !this.call.peer?.alive) this.call.renew();
  }

  #taken() {
    this.call.stop();
    this.utterances.reset();
    showSession(null);
    note("Another page took the session over.", { bad: true });
    showNotice({
      kind: "taken",
      title: "The session is open elsewhere",
      why: "Another page or program took this session over.",
      action: { label: "Open a new session", run: () => (withdrawNotice("taken"), this.socket.connect()) },
    });
  }

  /** @param {any} message of the server */
  #receive(message) {
    const { call, utterances, latency } = this;
    const failed = (/** @type {Error} */ error) => note(`The call could not be set up: ${error.message}`, { bad: true });
    switch (message.type) {
      case "generation.started":
        latency.started(message.chunk_index);
        utterances.started(message.chunk_index);
        note("The avatar speaks.");
        break;
      case "generation.completed":
        showCompleted(message);
        utterances.completed(message.chunk_index);
        break;
      case "webrtc.answer":
        call.peer?.accept(message.sdp).catch(failed);
        break;
      case "webrtc.ice_candidate":
        call.peer?.addCandidate(message.candidate).catch(failed);
        break;
      case "session.peer":
        if (message.state === "failed") call.serverGaveUp(message.detail, message.pairs);
        break;
      case "error":
        this.#showError(message);
        break;
      default:
        break;
    }
  }

  /** @param {any} message */
  #showError({ error, details }) {
    const { socket, utterances } = this;
    const code = details?.code ?? "";
    // Told in another way as well: the socket's own states, and session.peer.
    if (code === "SRV_5001" || code === "RTC_2002" || (code === "WS_1001" && !socket.established)) return;
    if (code === "SRV_5003" && this.settings.token_required) {
      this.#askForToken();
      return;
    }
    const { title, text } = inWords(code, error);
    note(`${title}: ${text}`, { bad: true });
    if (code === "WS_1001") {
      socket.forget();
      utterances.reset();
      socket.connect();
    } else if (socket.established) {
      if (code.startsWith("AUDIO_") || code === "SRV_5002") utterances.refused(details.chunk_index);
      showHint(title, text);
    } else {
      if (code === "SRV_5003") socket.close();
      showNotice({ kind: "refused", title, why: text });
    }
  }

  #askForToken() {
    this.socket.close();
    askForToken(() => this.socket.connect());
  }

  /**
   * @param {import("./socket.js").SocketState} state
   * @param {number} retryInMs
   */
  #showSocket(state, retryInMs) {
    const { socket, call } = this;
    const soon = retryInMs < 1000 ? "reconnecting" : `again in ${Math.round(retryInMs / 1000)} s`;
    if (state === "open") showLight("socket", "open", "good");
    else if (state === "waiting") showLight("socket", soon, "wait");
    else if (state === "full") showLight("socket", "server full", "bad");
    else if (state === "closed") showLight("socket", "closed", "bad");
    else showLight("socket", this.everEstablished ? "reconnecting" : "connecting", "wait");
    if (state === "waiting" && retryInMs === 0 && socket.session) note("The connection was cut; reconnecting.");
    if (state === "waiting" && retryInMs > 2500 && call.media !== "playing") showUnreachable(retryInMs, () => socket.connect());
    this.#showControls();
    this.#showOverall();
  }

  #showControls() {
    const { state, session } = this.socket;
    this.controls.show(Boolean(session) && state !== "full" && state !== "closed");
  }

  #showOverall() {
    const { socket, call } = this;
    if (socket.state === "full") showLight("overall", "Server full", "bad");
    else if (socket.state === "closed") showLight("overall", "Not connected", "bad");
    else if (call.media === "playing" && this.speaking) showLight("overall", "Speaking", "good");
    else if (call.media === "playing" && socket.state === "open") showLight("overall", "Live", "good");
    else if (call.ice === "failed" || call.media === "stalled" || (call.troubled && socket.state === "open")) {
      showLight("overall", "No picture", "bad");
    } else showLight("overall", this.everEstablished && socket.state !== "open" ? "Reconnecting" : "Connecting", "wait");
  }
}

/** @param {any} message */
function showCompleted({ video_path: path, interrupted, played_ms: playedMs }) {
  const seconds = typeof playedMs === "number" ? ` after ${(playedMs / 1000).toFixed(1)} s` : "";
  const link = path ? { href: recordingAddress(path), label: "Download the recording" } : undefined;
  note(`${interrupted ? "Interrupted" : "Finished"}${seconds}.`, { link });
}

/** @param {string} path */
function recordingAddress(path) {
  const name = path.split("/").pop() ?? "";
  return new URL(`recordings/${encodeURIComponent(name)}`, document.baseURI).href;
}
