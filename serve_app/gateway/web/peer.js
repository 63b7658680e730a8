/**
 * The WebRTC side of a session: one RTCPeerConnection that receives the avatar's picture and sound.
 *
 * A peer is used once. When it fails, a new one is made. How offer and answer travel is its subclasses' matter.
 */

import { emit } from "./events.js";

/**
 * @typedef {"new" | "connecting" | "connected" | "disconnected" | "failed" | "closed"} PeerState
 */

/** From the offer to a connection. Longer than the server's own limit of 15 s, whose account of it says more. */
const CONNECT_TIMEOUT_MS = 18_000;

/** A path that stays silent this long is given up; browsers wait about half a minute. */
const DISCONNECTED_TIMEOUT_MS = 6_000;

/**
 * Events: `state` {state}, `stream` {stream}, `failed` {reason}: "no-answer", "no-path" or "lost".
 */
export class Peer extends EventTarget {
  /** @param {RTCIceServer[]} [iceServers] */
  constructor(iceServers = []) {
    super();
    this.connection = new RTCPeerConnection({ iceServers, bundlePolicy: "max-bundle" });
    /** @type {PeerState} */
    this.state = "new";
    this.answered = false;
    /** @type {Set<string>} */
    this.localCandidates = new Set();
    /** @type {Set<string>} */
    this.remoteCandidates = new Set();
    this.timer = 0;
    this.connection.ontrack = (event) => this.#track(event);
    this.connection.onicecandidate = (event) => this.found(event.candidate);
    this.connection.onconnectionstatechange = () => this.#connectionState();
  }

  /** Whether sound and picture can still arrive. */
  get alive() {
    return this.state === "connected";
  }

  /**
   * Make the offer; from now on a connection is waited for.
   *
   * @returns {Promise<void>}
   */
  async offer() {
    await this.connection.setLocalDescription(await this.connection.createOffer());
    if (this.state === "closed") return;
    this.#setState("connecting");
    this.timer = setTimeout(() => this.#fail(this.answered ? "no-path" : "no-answer"), CONNECT_TIMEOUT_MS);
  }

  /**
   * Take the server's answer.
   *
   * @param {string} sdp
   */
  async accept(sdp) {
    if (this.connection.signalingState !== "have-local-offer") return;
    await this.connection.setRemoteDescription({ type: "answer", sdp });
    this.answered = true;
    for (const line of sdp.match(/^a=candidate:.*$/gm) ?? []) this.remoteCandidates.add(line.slice(2));
  }

  /**
   * A way to reach this browser was found; null ends them.
   *
   * @param {RTCIceCandidate | null} candidate
   */
  found(candidate) {
    if (candidate?.candidate) this.localCandidates.add(candidate.candidate);
  }

  /** End the peer; its events stop. */
  close() {
    this.silence();
    this.connection.close();
  }

  /** Let nothing more be told of the peer, which is as good as closed. */
  silence() {
    clearTimeout(this.timer);
    this.connection.ontrack = null;
    this.connection.onicecandidate = null;
    this.connection.onconnectionstatechange = null;
    this.state = "closed";
  }

  /** @param {RTCTrackEvent} event */
  #track(event) {
    emit(this, "stream", { stream: event.streams[0] ?? new MediaStream([event.track]) });
  }

  #connectionState() {
    const state = /** @type {PeerState} */ (this.connection.connectionState);
    if (state === "failed") {
      this.#fail(this.state === "connecting" ? "no-path" : "lost");
      return;
    }
    if (state === "connected" || state === "disconnected") clearTimeout(this.timer);
    if (state === "disconnected") this.timer = setTimeout(() => this.#fail("lost"), DISCONNECTED_TIMEOUT_MS);
    this.#setState(state);
  }

  /** @param {string} reason */
  #fail(reason) {
    clearTimeout(this.timer);
    if (this.state === "failed" || this.state === "closed") return;
    this.#setState("failed");
    emit(this, "failed", { reason });
  }

  /** @param {PeerState} state */
  #setState(state) {
    if (state === this.state) return;
    this.state = state;
    emit(this, "state", { state });
  }
}

/**
 * Put H.264 first: the server encodes it at the least cost; the others stay as fallback.
 *
 * @param {RTCRtpTransceiver} transceiver
 */
export function preferH264(transceiver) {
  const codecs = RTCRtpReceiver.getCapabilities?.("video")?.codecs;
  if (!codecs || !transceiver.setCodecPreferences) return;
  const isH264 = (/** @type {{mimeType: string}} */ codec) => codec.mimeType.toLowerCase() === "video/h264";
  transceiver.setCodecPreferences([...codecs.filter(isH264), ...codecs.filter((codec) => !isH264(codec))]);
}
