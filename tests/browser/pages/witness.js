/**
 * What a person would see and hear of the page's `video`: `seen.frames` counts the pictures it showed,
 * `seen.sound` holds [heard at in ms, root mean square] every 20 ms. `seen.errors` is the page's own.
 */
const seen = { frames: 0, sound: [], errors: [], events: [] };
const video = document.querySelector("video");
const count = () => {
  seen.frames += 1;
  video.requestVideoFrameCallback(count);
};
video.requestVideoFrameCallback(count);

addEventListener("error", (event) => seen.errors.push(event.message));
addEventListener("unhandledrejection", (event) => seen.errors.push(String(event.reason)));

const ear = new AudioContext();

/** Listen to a stream that an element of the page plays. */
function listen(stream) {
  const analyser = new AnalyserNode(ear, { fftSize: 1024 });
  ear.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    const power = samples.reduce((total, sample) => total + sample * sample, 0) / samples.length;
    seen.sound.push([performance.now(), Math.sqrt(power)]);
  }, 20);
}
