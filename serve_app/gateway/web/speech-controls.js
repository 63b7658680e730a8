/**
 * What a person presses to make the avatar say their own speech: sample, file, microphone.
 */

import { note } from "./activity-log.js";
import { decodeSpeech } from "./audio-file.js";
import { Microphone, MicrophoneError } from "./microphone.js";
import { hideHint, showHint } from "./notices.js";
import { element } from "./page.js";
import { SPEECH_HZ, firstVoiced, levelOf } from "./speech-pcm.js";

/** One source speaks at a time: beginning one ends the microphone. */
export class SpeechControls {
  /**
   * @param {import("./utterances.js").Utterances} utterances
   * @param {HTMLElement} dropTarget where sound files can be dropped
   */
  constructor(utterances, dropTarget) {
    this.utterances = utterances;
    this.ready = false;
    /** @type {Microphone | null} */
    this.microphone = null;
    this.microphoneOpening = false;
    this.#wire();
    this.#wireDrop(dropTarget);
  }

  /** @param {boolean} ready whether there is a session that takes speech */
  show(ready) {
    this.ready = ready;
    const { microphone } = this;
    element("sample", HTMLButtonElement).disabled = !ready;
    element("file-button", HTMLButtonElement).disabled = !ready;
    const button = element("microphone", HTMLButtonElement);
    button.disabled = this.microphoneOpening || (!ready && !microphone);
    button.setAttribute("aria-pressed", String(Boolean(microphone)));
    element("microphone-label").textContent = microphone ? "Stop listening" : "Microphone";
    element("interrupt", HTMLButtonElement).disabled = !this.utterances.busy && !microphone;
  }

  /** @param {string} [why] */
  async stopMicrophone(why = "The microphone is off.") {
    const closing = this.microphone;
    if (!closing) return;
    this.microphone = null;
    this.utterances.endStream();
    note(why);
    this.show(this.ready);
    await closing.close();
  }

  /** Drop what is queued or spoken, and stop listening. */
  async interrupt() {
    if (!this.utterances.busy && !this.microphone) return;
    this.utterances.interrupt();
    await this.stopMicrophone();
  }

  #wire() {
    const file = element("file", HTMLInputElement);
    element("sample").onclick = () => this.#speakSample();
    element("file-button").onclick = () => file.click();
    file.onchange = () => {
      if (file.files?.[0]) this.#speak(file.files[0], file.files[0].name);
      file.value = "";
    };
    element("microphone").onclick = () => (this.microphone ? this.stopMicrophone() : this.#startMicrophone());
  }

  /** @param {HTMLElement} target */
  #wireDrop(target) {
    const mark = (/** @type {boolean} */ over) => (target.dataset.drop = String(over));
    target.ondragover = (event) => (event.preventDefault(), mark(true));
    target.ondragleave = () => mark(false);
    target.ondrop = (event) => {
      event.preventDefault();
      mark(false);
      const file = event.dataTransfer?.files[0];
      if (file && this.ready) this.#speak(file, file.name);
    };
  }

  async #speakSample() {
    try {
      const response = await fetch("web/sample.wav");
      if (!response.ok) throw new Error(`The server answered ${response.status}.`);
      await this.#speak(await response.blob(), "the sample");
    } catch (error) {
      showHint("The sample did not load", /** @type {Error} */ (error).message);
    }
  }

  /**
   * @param {Blob} blob
   * @param {string} name
   */
  async #speak(blob, name) {
    hideHint();
    await this.stopMicrophone();
    try {
      const samples = await decodeSpeech(blob);
      const silent = firstVoiced(samples) < 0 ? "; it sounds silent" : "";
      note(`Sending ${name}, ${(samples.length / SPEECH_HZ).toFixed(1)} s${silent}.`);
      if (!(await this.utterances.speak(samples))) throw new Error("There is no session now. Try again when it is connected.");
    } catch (error) {
      const text = /** @type {Error} */ (error).message;
      note(`${name} was not spoken: ${text}`, { bad: true });
      showHint(`${name} was not spoken`, text);
    }
  }

  async #startMicrophone() {
    hideHint();
    this.microphoneOpening = true;
    this.show(this.ready);
    try {
      const opened = await Microphone.open((samples) => this.#heard(samples));
      opened.addEventListener("ended", () => this.stopMicrophone("The microphone went away."));
      this.microphone = opened;
      note("The microphone is on: the avatar says what you say. Headphones prevent an echo.");
    } catch (error) {
      const { message: title, remedy } = MicrophoneError.of(error);
      note(`${title}. ${remedy}`, { bad: true });
      showHint(title, remedy);
    }
    this.microphoneOpening = false;
    this.show(this.ready);
  }

  /** @param {Int16Array} samples */
  #heard(samples) {
    if (!this.microphone) return;
    element("microphone").style.setProperty("--voice", levelOf(samples).toFixed(2));
    this.utterances.stream(samples);
  }
}
