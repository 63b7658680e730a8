/**
 * The avatar's place on the page: its picture, and its sound, which browsers may hold back until a gesture.
 */

import { emit } from "./events.js";
import { element } from "./page.js";

/** Events: `picture` {} with the first frame of a stream, `sound` {on, blocked}. */
export class Stage extends EventTarget {
  constructor() {
    super();
    this.video = element("video", HTMLVideoElement);
    this.box = element("stage");
    this.ask = element("sound-ask", HTMLButtonElement);
    this.toggle = element("sound-toggle", HTMLButtonElement);
    /** Whether the person wants to hear the avatar. */
    this.wanted = true;
    /** Whether the browser refuses sound until a gesture. */
    this.blocked = false;
    this.ask.onclick = () => this.#listen();
    this.toggle.onclick = () => (this.video.muted ? this.#listen() : this.#mute());
    this.video.onplaying = () => this.#showPicture("shown");
    this.video.onloadeddata = () => this.dispatchEvent(new Event("picture"));
    // Any gesture on the page gives the right to sound, so a first press of a control needs no second one here.
    for (const gesture of ["pointerup", "keydown"]) {
      document.addEventListener(gesture, () => this.blocked && navigator.userActivation?.isActive !== false && this.#listen());
    }
  }

  /**
   * Play a stream: with sound where the browser lets us, else muted, at once.
   *
   * @param {MediaStream} stream
   */
  async play(stream) {
    if (this.video.srcObject === stream) return;
    this.video.srcObject = stream;
    this.video.muted = !this.wanted || this.blocked;
    try {
      await this.video.play();
    } catch (error) {
      // A newer stream replaced this one before it played.
      if (/** @type {DOMException} */ (error).name === "AbortError") return;
      this.blocked = true;
      this.video.muted = true;
      await this.video.play().catch(() => {});
    }
    this.#showSound();
  }

  /** Frames have stopped; the last one stays, faded. */
  fade() {
    if (this.box.dataset.picture === "shown") this.#showPicture("stale");
  }

  /** The stream is gone. */
  clear() {
    this.video.srcObject = null;
    this.#showPicture("none");
  }

  /** Frames arrive. */
  revive() {
    if (this.video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) this.#showPicture("shown");
  }

  /** @param {boolean} speaking */
  set speaking(speaking) {
    this.box.dataset.speaking = String(speaking);
  }

  async #listen() {
    this.wanted = true;
    this.video.muted = false;
    try {
      await this.video.play();
      this.blocked = false;
    } catch {
      // Still no gesture that the browser accepts: keep the picture, and keep asking.
      this.video.muted = true;
      await this.video.play().catch(() => {});
    }
    this.#showSound();
  }

  #mute() {
    this.wanted = false;
    this.video.muted = true;
    this.#showSound();
  }

  #showSound() {
    const on = !this.video.muted;
    this.ask.hidden = !this.blocked;
    this.toggle.hidden = this.blocked;
    this.toggle.setAttribute("aria-pressed", String(!on));
    element("sound-icon", /** @type {any} */ (SVGElement)).setAttribute("href", on ? "#icon-sound" : "#icon-muted");
    emit(this, "sound", { on, blocked: this.blocked });
  }

  /** @param {"shown" | "stale" | "none"} state */
  #showPicture(state) {
    this.box.dataset.picture = state;
  }
}
