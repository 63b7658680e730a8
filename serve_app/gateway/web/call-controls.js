/**
 * What a person uses in a conversation: microphone, button to talk, line to write, voice, and things to try.
 */

import { emit } from "./events.js";
import { element, make } from "./page.js";
import { COLOURS } from "./tools.js";

const SPACE = " ";

/**
 * Events: `mute` {muted}, `press` {} and `release` {} of the button to talk, `push-to-talk` {on}, `write` {text},
 * `voice` {voice}.
 */
export class CallControls extends EventTarget {
  /** @param {import("./settings.js").Settings} settings */
  constructor({ agent, voices, default_voice: voice }) {
    super();
    this.muted = false;
    this.ready = false;
    this.button = element("talk", HTMLButtonElement);
    this.label = element("talk-label");
    this.line = element("line", HTMLInputElement);
    this.choice = element("push-to-talk", HTMLInputElement);
    this.voices = element("voice", HTMLSelectElement);
    const names = [...new Set([voice, ...voices])].sort();
    this.voices.replaceChildren(...names.map((name) => new Option(titled(name), name, false, name === voice)));
    this.#wire();
    this.#suggest(agent === "echo");
  }

  get voice() {
    return this.voices.value;
  }

  get pushToTalk() {
    return this.choice.checked;
  }

  /**
   * @param {boolean} ready whether the conversation takes something
   * @param {boolean} busy whether there is something to interrupt
   */
  show(ready, busy) {
    this.ready = ready;
    this.button.disabled = !ready;
    element("send", HTMLButtonElement).disabled = !ready;
    for (const chip of element("suggestions").querySelectorAll("button")) chip.disabled = !ready;
    element("interrupt", HTMLButtonElement).disabled = !busy;
    this.#showButton();
  }

  /** @param {number} level of the microphone, 0 to 1 */
  set level(level) {
    this.button.style.setProperty("--voice", level.toFixed(2));
  }

  /** A new microphone is open. */
  unmute() {
    this.muted = false;
    this.#showButton();
  }

  #wire() {
    const { button } = this;
    button.onclick = () => !this.pushToTalk && this.#toggleMute();
    button.onpointerdown = (event) => {
      if (!this.pushToTalk || event.button !== 0) return;
      button.setPointerCapture(event.pointerId);
      this.#press();
    };
    button.onpointerup = button.onpointercancel = button.onblur = () => this.#release();
    button.onkeydown = (event) => [SPACE, "Enter"].includes(event.key) && !event.repeat && this.#press();
    button.onkeyup = (event) => [SPACE, "Enter"].includes(event.key) && this.#release();
    button.oncontextmenu = (event) => this.pushToTalk && event.preventDefault();
    this.choice.onchange = () => {
      this.#release();
      this.muted = false;
      emit(this, "push-to-talk", { on: this.pushToTalk });
      this.#showButton();
    };
    this.voices.onchange = () => emit(this, "voice", { voice: this.voice });
    const composer = element("composer", HTMLFormElement);
    element("send").onclick = () => composer.requestSubmit();
    composer.onsubmit = (event) => {
      event.preventDefault();
      const text = this.line.value.trim();
      if (!text || !this.ready) return;
      this.line.value = "";
      emit(this, "write", { text });
    };
  }

  /** @param {boolean} literally whether the agent takes words for what they are, and needs the functions' names */
  #suggest(literally) {
    const others = COLOURS.filter((colour) => colour !== "plain");
    let next = 0;
    const colour = () => others[next++ % others.length];
    const chips = [
      ["Say hello", () => "Hello! It is good to see you."],
      ["Ask the time", () => (literally ? "/call get_time" : "What time is it?")],
      [
        "Change colour",
        () => (literally ? `/call set_background {"colour": "${colour()}"}` : `Please make the background ${colour()}.`),
      ],
    ];
    const made = chips.map(([label, text]) => {
      const chip = make("button", { type: "button", class: "chip" }, /** @type {string} */ (label));
      chip.onclick = () => emit(this, "write", { text: /** @type {() => string} */ (text)() });
      return chip;
    });
    element("suggestions").replaceChildren(...made);
  }

  #toggleMute() {
    this.muted = !this.muted;
    emit(this, "mute", { muted: this.muted });
    this.#showButton();
  }

  #press() {
    if (!this.pushToTalk || !this.ready) return;
    this.button.dataset.held = "true";
    emit(this, "press");
    this.#showButton();
  }

  #release() {
    if (this.button.dataset.held !== "true") return;
    this.button.dataset.held = "false";
    emit(this, "release");
    this.#showButton();
  }

  #showButton() {
    const held = this.button.dataset.held === "true";
    this.button.setAttribute("aria-pressed", String(this.pushToTalk ? held : !this.muted && this.ready));
    if (this.pushToTalk) this.label.textContent = held ? "Let go to send" : "Hold to talk";
    else this.label.textContent = this.muted ? "Unmute" : "Mute";
  }
}

/** @param {string} name */
function titled(name) {
  return name.charAt(0).toUpperCase() + name.slice(1);
}
