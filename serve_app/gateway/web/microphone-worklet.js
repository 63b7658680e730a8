/**
 * Runs on the audio thread: resamples the device's sound to the speech rate and cuts it into 40 ms pieces.
 */

/** Zero crossings of the sinc on each side; 16 keep aliases more than 60 dB down. */
const LOBES = 16;

/** Seconds of one piece. */
const PIECE_S = 0.04;

/**
 * Resamples a stream by any ratio with a Hann-windowed sinc (J. O. Smith, "Digital Audio Resampling").
 */
class Resampler {
  /**
   * @param {number} fromHz
   * @param {number} toHz
   */
  constructor(fromHz, toHz) {
    this.step = fromHz / toHz;
    // Below the lower of both Nyquist rates, less the width of the filter's slope.
    this.cutoff = 0.94 * Math.min(1, toHz / fromHz);
    this.reach = Math.ceil(LOBES / this.cutoff);
    this.past = new Float32Array(this.reach);
    /** Where the next output sample stands, in input samples from the start of `past`. */
    this.at = this.reach;
  }

  /**
   * @param {Float32Array} input
   * @returns {number[]} full scale ±1; as many as are complete
   */
  push(input) {
    const samples = new Float32Array(this.past.length + input.length);
    samples.set(this.past);
    samples.set(input, this.past.length);
    const output = [];
    for (; this.at + this.reach < samples.length; this.at += this.step) output.push(this.#sampleAt(samples, this.at));
    const keepFrom = Math.max(0, Math.floor(this.at) - this.reach);
    this.past = samples.slice(keepFrom);
    this.at -= keepFrom;
    return output;
  }

  /**
   * @param {Float32Array} samples
   * @param {number} at
   */
  #sampleAt(samples, at) {
    const first = Math.max(0, Math.ceil(at - this.reach));
    const last = Math.min(samples.length - 1, Math.floor(at + this.reach));
    let total = 0;
    for (let i = first; i <= last; i += 1) {
      const x = (at - i) * this.cutoff;
      const sinc = x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
      const hann = 0.5 + 0.5 * Math.cos((Math.PI * (at - i)) / this.reach);
      total += samples[i] * sinc * hann * this.cutoff;
    }
    return total;
  }
}

class SpeechCutter extends AudioWorkletProcessor {
  /** @param {{processorOptions: {speechHz: number}}} options */
  constructor({ processorOptions: { speechHz } }) {
    super();
    this.resampler = new Resampler(sampleRate, speechHz);
    this.piece = new Int16Array(Math.round(speechHz * PIECE_S));
    this.filled = 0;
  }

  /** @param {Float32Array[][]} inputs */
  process([[channel]]) {
    if (!channel) return true;
    for (const sample of this.resampler.push(channel)) {
      this.piece[this.filled] = Math.round(Math.max(-1, Math.min(1, sample)) * 32767);
      this.filled += 1;
      if (this.filled === this.piece.length) this.#send();
    }
    return true;
  }

  #send() {
    const piece = this.piece.slice().buffer;
    this.port.postMessage(piece, [piece]);
    this.filled = 0;
  }
}

registerProcessor("speech-cutter", SpeechCutter);
