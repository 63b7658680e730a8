/**
 * The microphone as a stream of 16 kHz speech, 40 ms at a time.
 */

import { SPEECH_HZ } from "./speech-pcm.js";

/** What stands in the way of the microphone, by the name of the DOMException, as title and remedy. */
const REMEDIES = {
  NotAllowedError: [
    "The microphone is blocked",
    "Allow it in the browser: press the icon beside the address, switch Microphone to Allow, then try again.",
  ],
  NotFoundError: ["No microphone was found", "Plug one in or switch one on in the system's sound settings, then try again."],
  NotReadableError: [
    "The microphone is in use",
    "Another program holds it. Close calls and recorders, then try again.",
  ],
};

/** Why the microphone cannot be used: `message` is a title, `remedy` a sentence. */
export class MicrophoneError extends Error {
  /**
   * @param {string} title
   * @param {string} remedy
   */
  constructor(title, remedy) {
    super(title);
    this.remedy = remedy;
  }

  /**
   * @param {unknown} error whatever kept the microphone from starting
   * @returns {MicrophoneError}
   */
  static of(error) {
    if (error instanceof MicrophoneError) return error;
    return new MicrophoneError("The microphone did not start", /** @type {Error} */ (error).message);
  }
}

/** An open microphone. Events: `ended` {} when the device goes away. */
export class Microphone extends EventTarget {
  /**
   * Ask for the microphone and start it.
   *
   * @param {(samples: Int16Array) => void} heard called with 640 samples every 40 ms
   * @returns {Promise<Microphone>}
   * @throws {MicrophoneError}
   */
  static async open(heard) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new MicrophoneError(
        "The microphone needs HTTPS",
        "Browsers give the microphone only to pages on https:// or on localhost. Open this page under such an address.",
      );
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
      });
    } catch (error) {
      const known = REMEDIES[/** @type {keyof typeof REMEDIES} */ (/** @type {DOMException} */ (error).name)];
      throw known ? new MicrophoneError(known[0], known[1]) : MicrophoneError.of(error);
    }
    const microphone = new Microphone(stream);
    await microphone.#start(heard);
    return microphone;
  }

  /** @param {MediaStream} stream */
  constructor(stream) {
    super();
    this.stream = stream;
    this.context = new AudioContext({ latencyHint: "interactive" });
  }

  /** Let go of the device. */
  async close() {
    for (const track of this.stream.getTracks()) track.stop();
    await this.context.close();
  }

  /** @param {(samples: Int16Array) => void} heard */
  async #start(heard) {
    await this.context.audioWorklet.addModule(new URL("./microphone-worklet.js", import.meta.url));
    await this.context.resume();
    const source = this.context.createMediaStreamSource(this.stream);
    const cutter = new AudioWorkletNode(this.context, "speech-cutter", {
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: "explicit",
      processorOptions: { speechHz: SPEECH_HZ },
    });
    cutter.port.onmessage = (event) => heard(new Int16Array(event.data));
    source.connect(cutter);
    this.stream.getAudioTracks()[0].onended = () => this.dispatchEvent(new Event("ended"));
  }
}
