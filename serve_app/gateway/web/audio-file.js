/**
 * Any sound file the browser can play, as speech for the server.
 */

import { SPEECH_HZ, toInt16 } from "./speech-pcm.js";

/** Larger files would have to be decoded into memory as a whole. */
const MAX_FILE_BYTES = 200 * 1024 * 1024;

/**
 * Decode, mix to mono and resample to 16 kHz.
 *
 * @param {Blob} file
 * @returns {Promise<Int16Array>}
 * @throws {Error} with a sentence for a person when the file cannot be used
 */
export async function decodeSpeech(file) {
  if (file.size > MAX_FILE_BYTES) {
    throw new Error(`The file is ${Math.round(file.size / 1048576)} MB; up to 200 MB can be used.`);
  }
  // decodeAudioData resamples to the rate of its context.
  const context = new OfflineAudioContext(1, 1, SPEECH_HZ);
  let buffer;
  try {
    buffer = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error("The browser cannot decode this file. WAV, MP3, M4A, OGG and FLAC usually work.");
  }
  if (buffer.length === 0) throw new Error("The file holds no sound.");
  return toInt16(mixDown(buffer));
}

/** @param {AudioBuffer} buffer */
function mixDown(buffer) {
  const mono = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel += 1) {
    const samples = buffer.getChannelData(channel);
    for (let i = 0; i < mono.length; i += 1) mono[i] += samples[i] / buffer.numberOfChannels;
  }
  return mono;
}
