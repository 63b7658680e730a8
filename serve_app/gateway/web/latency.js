/**
 * Speech-to-lips latency, read off the picture: from the voice leaving this page to the mouth moving in it.
 *
 * The mouth's surroundings are drawn small for every frame that is shown and compared with the frame before.
 * A change well above what the idle face shows counts as lips moving.
 */

import { emit } from "./events.js";

/** Where portraits have their mouth, as shares of the picture. */
const MOUTH = { x: 0.38, y: 0.54, width: 0.24, height: 0.2 };

/** Size of the small picture, in pixels. */
const WIDTH = 48;
const HEIGHT = 40;

/** Frames of idle face that tell how much it changes by itself: 4 s at 30 fps. */
const IDLE_FRAMES = 120;

/** Fewer idle frames than these say too little. */
const LEAST_IDLE_FRAMES = 8;

/**
 * Lips move when the change is this many times the idle face's, and at least FLOOR grey levels. The built-in
 * portrait changes by 0.2 when idle, by up to 0.95 with a key frame, and by 2 or more when it begins to speak.
 */
const FACTOR = 2;
const FLOOR = 1.1;

/** Lips are at rest when so many frames in a row changed no more than the idle face does. */
const REST_FRAMES = 5;

/** Frames of speech are still on their way to the screen for so long after it ended. */
const SETTLE_MS = 600;

/** The server's word counts when no lips were seen so long after it. */
const SERVER_WORD_AFTER_MS = 600;

/** An utterance that shows nothing for this long is not measured. */
const GIVE_UP_MS = 10_000;

/**
 * @typedef {object} Latency
 * @property {number} ms
 * @property {"picture" | "server"} source lips seen in the picture, or the server's generation.started
 */

/** Events: `measured` {Latency}. */
export class LipLatency extends EventTarget {
  /** @param {HTMLVideoElement} video */
  constructor(video) {
    super();
    this.video = video;
    const canvas = document.createElement("canvas");
    canvas.width = WIDTH;
    canvas.height = HEIGHT;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    /** @type {Uint8Array | null} */
    this.last = null;
    /** @type {number[]} */
    this.idle = [];
    this.restingFrames = 0;
    /** @type {{index: number, sinceMs: number} | null} */
    this.waiting = null;
    this.speaking = false;
    /** When the last frames of what was spoken are gone, by performance.now(). */
    this.settledAtMs = 0;
    this.serverTimer = 0;
    if ("requestVideoFrameCallback" in HTMLVideoElement.prototype) this.#watch();
  }

  /**
   * Begin a measurement, unless lips that move already make it impossible. An utterance that is under way may
   * be measured too: live speech begins with silence, and has pauses.
   *
   * @param {number} index the utterance's chunk_index
   * @param {number} sinceMs when its voice was sent or heard, by performance.now()
   */
  begin(index, sinceMs) {
    const mayMove = this.speaking || performance.now() < this.settledAtMs;
    if (mayMove && this.restingFrames < REST_FRAMES) return;
    clearTimeout(this.serverTimer);
    this.waiting = { index, sinceMs };
  }

  /**
   * The server says that the utterance's first frame is on show.
   *
   * @param {number} index
   */
  started(index) {
    const waiting = this.waiting;
    this.speaking = true;
    if (!waiting || waiting.index !== index) return;
    const ms = performance.now() - waiting.sinceMs;
    this.serverTimer = setTimeout(() => {
      if (this.waiting === waiting && ms >= 0) this.#measured({ ms, source: "server" });
    }, SERVER_WORD_AFTER_MS);
  }

  /** The avatar fell silent. */
  stopped() {
    this.speaking = false;
    this.settledAtMs = performance.now() + SETTLE_MS;
    this.waiting = null;
    clearTimeout(this.serverTimer);
  }

  #watch() {
    this.video.requestVideoFrameCallback((now, metadata) => {
      this.#frame(Math.max(now, metadata.expectedDisplayTime));
      this.#watch();
    });
  }

  /** @param {number} shownAtMs */
  #frame(shownAtMs) {
    const change = this.#change();
    if (change === null) return;
    const { waiting } = this;
    const moved = this.idle.length >= LEAST_IDLE_FRAMES && change > this.#threshold();
    this.restingFrames = moved ? 0 : this.restingFrames + 1;
    if (waiting && shownAtMs - waiting.sinceMs > GIVE_UP_MS) this.waiting = null;
    else if (waiting && shownAtMs > waiting.sinceMs && moved) {
      this.#measured({ ms: shownAtMs - waiting.sinceMs, source: "picture" });
    }
    if (this.speaking || this.waiting || shownAtMs < this.settledAtMs) return;
    this.idle.push(change);
    if (this.idle.length > IDLE_FRAMES) this.idle.shift();
  }

  /** Mean change of the mouth's brightness against the frame before, in grey levels; null at the start. */
  #change() {
    const { videoWidth, videoHeight } = this.video;
    if (!this.context || !videoWidth) return null;
    const { x, y, width, height } = MOUTH;
    const source = [x * videoWidth, y * videoHeight, width * videoWidth, height * videoHeight];
    this.context.drawImage(this.video, source[0], source[1], source[2], source[3], 0, 0, WIDTH, HEIGHT);
    const { data } = this.context.getImageData(0, 0, WIDTH, HEIGHT);
    const grey = new Uint8Array(WIDTH * HEIGHT);
    for (let i = 0; i < grey.length; i += 1) grey[i] = (data[4 * i] + 2 * data[4 * i + 1] + data[4 * i + 2]) >> 2;
    const { last } = this;
    this.last = grey;
    if (!last) return null;
    return grey.reduce((total, value, i) => total + Math.abs(value - last[i]), 0) / grey.length;
  }

  /** The idle face's own changes, without its rare largest (a key frame redraws everything). */
  #threshold() {
    const sorted = [...this.idle].sort((a, b) => a - b);
    return Math.max(FLOOR, FACTOR * sorted[Math.floor(0.95 * (sorted.length - 1))]);
  }

  /** @param {Latency} latency */
  #measured(latency) {
    this.waiting = null;
    clearTimeout(this.serverTimer);
    emit(this, "measured", latency);
  }
}
