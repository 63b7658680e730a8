/**
 * Keeps media flowing for a session: makes its peers, watches what arrives, tells what is wrong, tries again.
 */

import { DoorError } from "./door-error.js";
import { emit } from "./events.js";
import { MediaStats, triedPairs } from "./stats.js";

/** How often figures are read. */
const READ_MS = 1000;

/** A path is found in a second or two; when it takes so long, a person wants to know why. */
const SLOW_MS = 8000;

/** A connected peer that shows no frame for so long has no media. */
const NO_MEDIA_MS = 5000;

/** A picture that stood still for so long is stale. */
const STALLED_MS = 1800;

/** Waits before a new peer after a failure. */
const RETRY_MS = [2000, 5000, 10_000, 30_000];

/**
 * @typedef {"none" | "waiting" | "playing" | "stalled"} MediaState
 *
 * @typedef {object} Trouble
 * @property {"no-answer" | "no-path" | "lost" | "no-media"} reason
 * @property {string} serverDetail
 * @property {string[]} pairs
 * @property {boolean} hasLocalCandidates
 * @property {boolean} hasRemoteCandidates
 */

/**
 * @typedef {import("./peer.js").Peer & {start: () => Promise<void>}} StartedPeer
 */

/**
 * Events: `stream` {stream}, `ice` {state}, `media` {state}, `figures` {MediaFigures}, `trouble` {Trouble},
 * `refused` {error: DoorError} when the server will not have the call, `unreachable` {} when nothing at all
 * comes from the server.
 *
 * @template {StartedPeer} P
 */
export class Call extends EventTarget {
  /** @param {() => P} makePeer */
  constructor(makePeer) {
    super();
    this.makePeer = makePeer;
    /** @type {P | null} */
    this.peer = null;
    /** @type {MediaStats | null} */
    this.stats = null;
    /** @type {MediaState} */
    this.media = "none";
    this.failures = 0;
    this.retryTimer = 0;
    this.slowTimer = 0;
    this.frames = 0;
    this.framesAtMs = 0;
    this.serverDetail = "";
    /** @type {string[]} */
    this.serverPairs = [];
    setInterval(() => this.#read(), READ_MS);
  }

  /** The state of ICE as a person asks for it. */
  get ice() {
    return this.peer?.state ?? "new";
  }

  /** Whether a peer failed and its successor is waited for. */
  get troubled() {
    return this.failures > 0;
  }

  /** Whether a TURN server could be used. */
  get hasTurn() {
    const servers = this.peer?.connection.getConfiguration().iceServers ?? [];
    return servers.flatMap((server) => server.urls).some((url) => url.startsWith("turn"));
  }

  /** Replace the peer by a new one, now. */
  renew() {
    this.#clearTimers();
    this.peer?.close();
    this.serverDetail = "";
    this.serverPairs = [];
    const peer = this.makePeer();
    this.peer = peer;
    this.stats = new MediaStats(peer.connection);
    this.frames = 0;
    this.framesAtMs = performance.now();
    peer.addEventListener("stream", (event) => emit(this, "stream", /** @type {CustomEvent} */ (event).detail));
    peer.addEventListener("state", () => this.#peerState());
    peer.addEventListener("failed", (event) => this.#failed(/** @type {CustomEvent} */ (event).detail.reason));
    this.#setMedia("waiting");
    this.slowTimer = setTimeout(() => this.#tell(peer.answered ? "no-path" : "no-answer"), SLOW_MS);
    peer.start().catch((error) => peer === this.peer && this.#notStarted(error));
  }

  /** End the peer and make no other. */
  stop() {
    this.#clearTimers();
    this.peer?.close();
    this.peer = null;
    this.stats = null;
    this.#setMedia("none");
  }

  /**
   * The server says that the peer found no way.
   *
   * @param {string} detail its sentence
   * @param {string[]} pairs candidate pairs it tried
   */
  serverGaveUp(detail, pairs) {
    if (!this.peer?.alive) this.#failed("no-path", detail, pairs);
  }

  /** The first frame of a stream is on show: the next reading need not be waited for. */
  sawPicture() {
    if (this.peer?.alive) this.#flowing();
  }

  #peerState() {
    if (this.peer?.state === "connected") {
      clearTimeout(this.slowTimer);
      this.framesAtMs = performance.now();
    }
    emit(this, "ice", { state: this.ice });
  }

  async #read() {
    const { stats, peer } = this;
    if (!stats || !peer || peer.state === "closed" || peer.state === "failed") return;
    const figures = await stats.read();
    if (peer !== this.peer) return;
    this.#watch(figures.framesDecoded);
    if (peer.alive) emit(this, "figures", figures);
  }

  /** @param {number} frames decoded since the peer began */
  #watch(frames) {
    const now = performance.now();
    // A hidden page may be slowed down so far that silence says nothing.
    if (frames > this.frames || document.hidden) {
      this.framesAtMs = now;
      if (frames > this.frames) this.#flowing();
      this.frames = frames;
      return;
    }
    const silentMs = now - this.framesAtMs;
    if (this.media === "playing" && silentMs > STALLED_MS) this.#setMedia("stalled");
    if (this.peer?.alive && silentMs > NO_MEDIA_MS) this.#failed("no-media");
  }

  #flowing() {
    this.failures = 0;
    this.#clearTimers();
    this.#setMedia("playing");
  }

  /** @param {Error} error */
  #notStarted(error) {
    if (error instanceof DoorError) {
      this.stop();
      emit(this, "refused", { error });
    } else {
      this.#failed("no-answer", error.message);
    }
  }

  /**
   * @param {Trouble["reason"]} reason
   * @param {string} [serverDetail]
   * @param {string[]} [serverPairs]
   */
  #failed(reason, serverDetail = "", serverPairs = []) {
    if (!this.peer) return;
    this.serverDetail = serverDetail || this.serverDetail;
    this.serverPairs = serverPairs.length ? serverPairs : this.serverPairs;
    this.#clearTimers();
    const delayMs = RETRY_MS[Math.min(this.failures, RETRY_MS.length - 1)];
    this.failures += 1;
    this.framesAtMs = performance.now() + delayMs;
    this.retryTimer = setTimeout(() => this.renew(), delayMs);
    this.#setMedia("none");
    emit(this, "ice", { state: this.ice });
    this.#tell(reason);
    // The network below the socket may be gone as well, which a browser notices only after minutes.
    if (reason === "lost" || reason === "no-answer") emit(this, "unreachable");
  }

  /**
   * Say what is wrong, with the pairs tried.
   *
   * @param {Trouble["reason"]} reason
   */
  async #tell(reason) {
    const { peer } = this;
    if (!peer) return;
    const pairs = this.serverPairs.length ? this.serverPairs : await triedPairs(peer.connection);
    if (peer !== this.peer) return;
    emit(this, "trouble", {
      reason,
      serverDetail: this.serverDetail,
      pairs,
      hasLocalCandidates: peer.localCandidates.size > 0,
      hasRemoteCandidates: peer.remoteCandidates.size > 0,
    });
  }

  #clearTimers() {
    clearTimeout(this.retryTimer);
    clearTimeout(this.slowTimer);
  }

  /** @param {MediaState} state */
  #setMedia(state) {
    if (state === this.media) return;
    this.media = state;
    emit(this, "media", { state });
  }
}
