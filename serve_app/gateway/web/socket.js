/**
 * The control channel of a session: a WebSocket that comes back.
 *
 * The session lives on the server and outlives its socket, so a cut is answered with a new socket that
 * takes the same session over (`session_id` and `resume_token`). When the server no longer knows the
 * session, the next socket asks for a fresh one.
 */

import { emit } from "./events.js";

/**
 * @typedef {"connecting" | "open" | "waiting" | "full" | "closed"} SocketState
 *
 * @typedef {object} Established
 * @property {string} session_id names the session in every message
 * @property {string} resume_token secret that lets another socket take the session over
 * @property {boolean} resumed whether this socket took over a running session
 * @property {number} lease_s how long the session outlives its socket
 * @property {RTCIceServer[]} ice_servers
 * @property {{width: number, height: number, fps: number}} video
 */

/** Waits before the next attempt, in ms; the first is at once so that a cut heals unnoticed. */
const BACKOFF_MS = [0, 200, 400, 800, 1500, 3000, 5000, 8000];

/** The longest of them while the server still keeps the session: its picture goes on meanwhile. */
const LEASED_BACKOFF_MS = 400;

/** A socket that is not established by then is given up. */
const CONNECT_TIMEOUT_MS = 5000;

/** A session that has lasted this long is healthy again: the next cut is answered at once. */
const HEALTHY_MS = 5000;

/** Speech kept while the socket is away, in characters of JSON; older speech is useless live. */
const MAX_QUEUED_CHARS = 4_000_000;

/** WebSocket close code "normal closure" (RFC 6455, 7.4.1): the server ends the session and frees its place. */
const NORMAL_CLOSURE = 1000;

/** WebSocket close code "try again later" (IANA registry). */
const TRY_AGAIN_LATER = 1013;

/** The door's close code for a session that another socket took over: returning would take it back. */
const TAKEN_OVER = 4409;

/**
 * Events: `state` {state, retryInMs, reason}, `established` {Established}, `message` {a server event},
 * `lost` {} when the running session could not be taken over, `taken` {} when another socket took it over.
 */
export class SessionSocket extends EventTarget {
  /** @param {() => URL} address gives the door's URL with the wanted avatar and token */
  constructor(address) {
    super();
    this.address = address;
    /** @type {SocketState} */
    this.state = "closed";
    /** @type {Established | null} */
    this.session = null;
    /** @type {WebSocket | null} */
    this.socket = null;
    this.established = false;
    this.attempt = 0;
    this.retryTimer = 0;
    this.connectTimer = 0;
    this.establishedAtMs = 0;
    this.cutAtMs = 0;
    this.retryAfterS = 0;
    /** @type {string[]} */
    this.queue = [];
    this.queuedChars = 0;
  }

  /** Open a socket now, instead of any that is open or waited for. */
  connect() {
    clearTimeout(this.retryTimer);
    this.#drop();
    this.retryAfterS = 0;
    const url = this.address();
    if (this.session) {
      url.searchParams.set("session_id", this.session.session_id);
      url.searchParams.set("resume_token", this.session.resume_token);
    }
    const socket = new WebSocket(url);
    this.socket = socket;
    this.established = false;
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => this.#closed(socket, event.code);
    this.connectTimer = setTimeout(() => this.#closed(socket, 1006), CONNECT_TIMEOUT_MS);
    this.#setState("connecting");
  }

  /** Forget the session; the next `connect` asks for a new one. */
  forget() {
    this.session = null;
    this.queue = [];
    this.queuedChars = 0;
  }

  /** End the session on the server and forget it; the next `connect` asks for a new one. */
  leave() {
    this.socket?.close(NORMAL_CLOSURE);
    this.forget();
    this.close();
  }

  /** Close for good; the server keeps the session for its lease. */
  close() {
    clearTimeout(this.retryTimer);
    this.#drop();
    this.#setState("closed");
  }

  /**
   * Send a message of the session. Speech is kept while the socket is away, and sent when it is back.
   *
   * @param {Record<string, unknown> & {type: string}} message without its session_id
   * @param {{keep?: boolean}} [options] keep: hold it back while the socket is away
   * @returns {boolean} whether it was sent or kept
   */
  send(message, { keep = false } = {}) {
    if (!this.session) return false;
    const text = JSON.stringify({ ...message, session_id: this.session.session_id });
    if (this.established && this.socket?.readyState === WebSocket.OPEN) {
      this.socket.send(text);
      return true;
    }
    if (!keep || this.queuedChars + text.length > MAX_QUEUED_CHARS) return false;
    this.queue.push(text);
    this.queuedChars += text.length;
    return true;
  }

  /** Drop the speech that was kept. */
  clearQueue() {
    this.queue = [];
    this.queuedChars = 0;
  }

  /** Bytes that were handed over and have not left this machine. */
  get bufferedBytes() {
    return this.socket?.bufferedAmount ?? 0;
  }

  /** @param {string} text */
  #receive(text) {
    const message = JSON.parse(text);
    if (message.type === "connection.established") {
      this.#establish(message);
      return;
    }
    if (message.type === "error" && !this.established) {
      const code = message.details?.code;
      if (code === "SRV_5001") this.retryAfterS = Number(message.details.retry_after_s) || 5;
      if (code === "WS_1001") this.#lose();
    }
    emit(this, "message", message);
  }

  /** @param {Established} message */
  #establish(message) {
    clearTimeout(this.connectTimer);
    if (this.session && !message.resumed) this.#lose();
    this.session = message;
    this.established = true;
    this.establishedAtMs = performance.now();
    this.#setState("open");
    emit(this, "established", { ...message, awayMs: this.cutAtMs ? performance.now() - this.cutAtMs : 0 });
    this.cutAtMs = 0;
    for (const text of this.queue) this.socket?.send(text);
    this.clearQueue();
  }

  #lose() {
    this.forget();
    this.attempt = 0;
    emit(this, "lost");
  }

  /**
   * @param {WebSocket} socket
   * @param {number} code
   */
  #closed(socket, code) {
    if (socket !== this.socket) return;
    const wasEstablished = this.established;
    this.#drop();
    const now = performance.now();
    if (code === TAKEN_OVER) {
      this.forget();
      this.#setState("closed");
      emit(this, "taken");
      return;
    }
    if (wasEstablished) {
      this.cutAtMs = now;
      if (now - this.establishedAtMs > HEALTHY_MS) this.attempt = 0;
    }
    const leaseMs = (this.session?.lease_s ?? 0) * 1000;
    if (this.session && this.cutAtMs && now - this.cutAtMs > leaseMs) this.#lose();
    if (this.retryAfterS > 0 || (code === TRY_AGAIN_LATER && !wasEstablished)) {
      this.#retryIn((this.retryAfterS || 5) * 1000, "full");
      return;
    }
    const longest = this.session ? LEASED_BACKOFF_MS : Infinity;
    const step = Math.min(longest, BACKOFF_MS[Math.min(this.attempt, BACKOFF_MS.length - 1)]);
    this.attempt += 1;
    // Many pages are cut at the same moment when a server goes; jitter keeps them from returning as one.
    this.#retryIn(step * (0.8 + 0.4 * Math.random()), "waiting");
  }

  /**
   * @param {number} delayMs
   * @param {SocketState} state
   */
  #retryIn(delayMs, state) {
    this.retryTimer = setTimeout(() => this.connect(), delayMs);
    this.#setState(state, delayMs);
  }

  #drop() {
    clearTimeout(this.connectTimer);
    const socket = this.socket;
    this.socket = null;
    this.established = false;
    if (!socket) return;
    socket.onmessage = null;
    socket.onclose = null;
    socket.close();
  }

  /**
   * @param {SocketState} state
   * @param {number} [retryInMs]
   */
  #setState(state, retryInMs = 0) {
    this.state = state;
    emit(this, "state", { state, retryInMs });
  }
}
