/**
 * Speech as the server takes it: 16-bit PCM, mono, 16 kHz; and its WAV and base64 forms.
 */

/** Samples in a second of what the server hears. */
export const SPEECH_HZ = 16_000;

/** A 10 ms stretch louder than this (root mean square, full scale 1) counts as voice. */
const VOICE_RMS = 0.015;

/**
 * @param {Float32Array} samples full scale ±1
 * @returns {Int16Array}
 */
export function toInt16(samples) {
  return Int16Array.from(samples, (sample) => Math.round(Math.max(-1, Math.min(1, sample)) * 32767));
}

/**
 * Append silence until the speech lasts `leastS` seconds.
 *
 * @param {Int16Array} samples
 * @param {number} leastS
 */
export function padTo(samples, leastS) {
  const least = Math.ceil(leastS * SPEECH_HZ);
  if (samples.length >= least) return samples;
  const padded = new Int16Array(least);
  padded.set(samples);
  return padded;
}

/**
 * Where the voice begins: the index of the first 10 ms that are not silence, or -1.
 *
 * @param {Int16Array} samples
 */
export function firstVoiced(samples) {
  const stretch = SPEECH_HZ / 100;
  for (let start = 0; start < samples.length; start += stretch) {
    const end = Math.min(start + stretch, samples.length);
    let energy = 0;
    for (let i = start; i < end; i += 1) energy += (samples[i] / 32768) ** 2;
    if (Math.sqrt(energy / (end - start)) > VOICE_RMS) return start;
  }
  return -1;
}

/**
 * A WAV file: the canonical 44-byte RIFF header (Multimedia Programming Interface 1.0) and the samples.
 *
 * @param {Int16Array} samples
 * @returns {Uint8Array}
 */
export function toWav(samples) {
  const bytes = new Uint8Array(44 + samples.length * 2);
  const view = new DataView(bytes.buffer);
  const ascii = (/** @type {number} */ at, /** @type {string} */ text) =>
    [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  ascii(0, "RIFF");
  view.setUint32(4, bytes.length - 8, true);
  ascii(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, SPEECH_HZ, true);
  view.setUint32(28, SPEECH_HZ * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  ascii(36, "data");
  view.setUint32(40, samples.length * 2, true);
  bytes.set(toBytes(samples), 44);
  return bytes;
}

/**
 * Little-endian PCM bytes.
 *
 * @param {Int16Array} samples
 * @returns {Uint8Array}
 */
export function toBytes(samples) {
  const bytes = new Uint8Array(samples.length * 2);
  const view = new DataView(bytes.buffer);
  samples.forEach((sample, i) => view.setInt16(i * 2, sample, true));
  return bytes;
}

/**
 * @param {Uint8Array} bytes
 * @returns {string}
 */
export function toBase64(bytes) {
  let text = "";
  // fromCharCode takes its bytes as arguments, and engines limit how many there may be.
  for (let at = 0; at < bytes.length; at += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(text);
}

/** Spoken level (root mean square, full scale 1) times this fills the ring around a microphone. */
const LEVEL_GAIN = 6;

/**
 * How loud speech is to a person: 0 silence to 1 loud speech.
 *
 * @param {Int16Array} samples
 */
export function levelOf(samples) {
  const energy = samples.reduce((total, sample) => total + (sample / 32768) ** 2, 0) / samples.length;
  return Math.min(1, Math.sqrt(energy) * LEVEL_GAIN);
}
