/**
 * Speech on its way to the avatar: whole, in pieces, or live; and what of it is queued or being spoken.
 *
 * Every speech message takes the next `chunk_index` of the session. An utterance goes by the index of its
 * first message, and the server's generation events name it by that.
 */

import { emit } from "./events.js";
import { SPEECH_HZ, firstVoiced, padTo, toBase64, toBytes, toWav } from "./speech-pcm.js";

/** Longer speech is sent in pieces. */
const WHOLE_UP_TO_S = 20;

/** One piece: 4 s are 128 kB, which the protocol's advice of more than 80 kB has in mind. */
const PIECE_S = 4;

/** How far the pieces may run ahead of what is heard; the server holds unplayed speech in memory. */
const MAX_AHEAD_S = 60;

/** After so long a silence a voice is a new beginning, whose way to the lips can be measured. */
const PAUSE_S = 0.6;

/**
 * @typedef {object} Sending
 * @property {number} index the utterance's first chunk_index
 * @property {number} voiceAtMs when its voice was sent, by performance.now(); a lead-in of silence is not counted
 */

/** Events: `sending` {Sending}, `interrupted` {}, `change` {}. */
export class Utterances extends EventTarget {
  /**
   * @param {import("./socket.js").SessionSocket} socket
   * @param {() => number} minUtteranceS shorter utterances are padded with silence
   */
  constructor(socket, minUtteranceS) {
    super();
    this.socket = socket;
    this.minUtteranceS = minUtteranceS;
    this.nextIndex = 0;
    /** @type {Map<number, "queued" | "speaking">} */
    this.open = new Map();
    /** @type {{index: number, samples: number, quiet: number} | null} quiet: samples since the last voice */
    this.live = null;
    /** @type {AbortController | null} */
    this.pieces = null;
  }

  /** Whether the avatar is speaking. */
  get speaking() {
    return [...this.open.values()].includes("speaking");
  }

  /** Whether anything is queued, spoken or streamed. */
  get busy() {
    return this.open.size > 0;
  }

  /**
   * Send a whole utterance; it queues behind those before it.
   *
   * @param {Int16Array} samples 16 kHz mono
   * @returns {Promise<boolean>} false when it could not be sent
   */
  async speak(samples) {
    this.pieces?.abort();
    const padded = padTo(samples, this.minUtteranceS());
    if (padded.length > WHOLE_UP_TO_S * SPEECH_HZ) return this.#speakInPieces(padded);
    const audio = toBase64(toWav(padded));
    const index = this.#begin(padded, performance.now());
    const message = { type: "agent.speak", audio, format: "wav", sample_rate: SPEECH_HZ, chunk_index: index, is_final: true };
    return this.socket.send(message, { keep: true }) || this.#undo(index);
  }

  /**
   * Send live speech; the first call begins an utterance.
   *
   * @param {Int16Array} samples 16 kHz mono, just heard
   */
  stream(samples) {
    if (!this.live) {
      this.live = { index: this.nextIndex, samples: 0, quiet: PAUSE_S * SPEECH_HZ };
      this.open.set(this.live.index, "queued");
      emit(this, "change");
    }
    const live = this.live;
    const voiceAt = firstVoiced(samples);
    if (voiceAt >= 0 && live.quiet + voiceAt >= PAUSE_S * SPEECH_HZ) {
      const agoMs = ((samples.length - voiceAt) / SPEECH_HZ) * 1000;
      emit(this, "sending", { index: live.index, voiceAtMs: performance.now() - agoMs });
    }
    live.quiet = voiceAt >= 0 ? 0 : live.quiet + samples.length;
    this.#sendChunk(samples, { isFirst: live.samples === 0, isFinal: false });
    live.samples += samples.length;
  }

  /** End the live utterance, if there is one. */
  endStream() {
    const live = this.live;
    if (!live) return;
    this.live = null;
    const missing = Math.max(0, Math.ceil(this.minUtteranceS() * SPEECH_HZ) - live.samples);
    this.#sendChunk(new Int16Array(missing), { isFirst: live.samples === 0, isFinal: true });
  }

  /** Drop everything that is queued or spoken, here and on the server. */
  interrupt() {
    this.pieces?.abort();
    this.live = null;
    this.socket.clearQueue();
    this.socket.send({ type: "agent.interrupt" }, { keep: true });
    emit(this, "interrupted");
    for (const [index, state] of this.open) if (state === "queued") this.open.delete(index);
    emit(this, "change");
  }

  /** The session is another one: nothing that was sent will be spoken. */
  reset() {
    this.pieces?.abort();
    this.live = null;
    this.open.clear();
    this.nextIndex = 0;
    emit(this, "change");
  }

  /** @param {number} index */
  started(index) {
    // Utterances play in order, so one that starts ends all before it, even if their events were lost.
    for (const known of this.open.keys()) if (known < index) this.open.delete(known);
    this.open.set(index, "speaking");
    emit(this, "change");
  }

  /** @param {number} index */
  completed(index) {
    this.open.delete(index);
    emit(this, "change");
  }

  /**
   * The server did not take a message: if it began an utterance, that will not be spoken.
   *
   * @param {number | undefined} index the message's chunk_index; the newest utterance's when undefined
   */
  refused(index) {
    this.pieces?.abort();
    this.open.delete(index ?? Math.max(...this.open.keys()));
    emit(this, "change");
  }

  /** @param {Int16Array} samples */
  async #speakInPieces(samples) {
    const abort = new AbortController();
    this.pieces = abort;
    const index = this.#begin(samples, performance.now());
    const startedMs = performance.now();
    const piece = PIECE_S * SPEECH_HZ;
    for (let at = 0; at < samples.length; at += piece) {
      const aheadS = at / SPEECH_HZ - (performance.now() - startedMs) / 1000;
      if (aheadS > MAX_AHEAD_S) await wait((aheadS - MAX_AHEAD_S) * 1000, abort.signal);
      if (abort.signal.aborted) return true;
      const chunk = samples.subarray(at, at + piece);
      const sent = this.#sendChunk(chunk, { isFirst: at === 0, isFinal: at + piece >= samples.length });
      if (!sent) return this.#undo(index);
    }
    return true;
  }

  /**
   * @param {Int16Array} samples
   * @param {{isFirst: boolean, isFinal: boolean}} place
   */
  #sendChunk(samples, { isFirst, isFinal }) {
    const chunk = toBase64(toBytes(samples));
    const message = { type: "agent.audio.chunk", chunk, chunk_index: this.nextIndex, is_first: isFirst, is_final: isFinal };
    this.nextIndex += 1;
    return this.socket.send(message, { keep: true });
  }

  /**
   * @param {Int16Array} samples
   * @param {number} nowMs
   */
  #begin(samples, nowMs) {
    const index = this.nextIndex;
    if (samples.length <= WHOLE_UP_TO_S * SPEECH_HZ) this.nextIndex += 1;
    const voiceAt = firstVoiced(samples);
    if (voiceAt >= 0 && !this.busy) {
      emit(this, "sending", { index, voiceAtMs: nowMs + (voiceAt / SPEECH_HZ) * 1000 });
    }
    this.open.set(index, "queued");
    emit(this, "change");
    return index;
  }

  /** @param {number} index */
  #undo(index) {
    this.open.delete(index);
    emit(this, "change");
    return false;
  }
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function wait(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
