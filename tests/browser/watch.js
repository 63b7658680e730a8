/**
 * Records in the page what a person sees and hears: every frame's change around the mouth, and the loudness
 * of the received sound. `watch.frames` holds [shown at, change in grey levels], `watch.sound` [heard at, root
 * mean square], both by performance.now() in ms.
 */
(() => {
  const video = document.getElementById("video");
  const [WIDTH, HEIGHT] = [48, 40];
  const MOUTH = [0.38, 0.54, 0.24, 0.2];
  const context = new OffscreenCanvas(WIDTH, HEIGHT).getContext("2d", { willReadFrequently: true });
  const watch = { frames: [], sound: [], presented: [], clicked: null };
  window.watch = watch;

  let last = null;
  const look = (now, { expectedDisplayTime, presentedFrames }) => {
    const { videoWidth, videoHeight } = video;
    const [x, y, width, height] = MOUTH;
    context.drawImage(video, x * videoWidth, y * videoHeight, width * videoWidth, height * videoHeight, 0, 0, WIDTH, HEIGHT);
    const { data } = context.getImageData(0, 0, WIDTH, HEIGHT);
    const grey = new Float32Array(WIDTH * HEIGHT).map((_, i) => (data[4 * i] + 2 * data[4 * i + 1] + data[4 * i + 2]) / 4);
    if (last) {
      const change = grey.reduce((total, value, i) => total + Math.abs(value - last[i]), 0) / grey.length;
      watch.frames.push([Math.max(now, expectedDisplayTime), change]);
      watch.presented.push([now, presentedFrames]);
    }
    last = grey;
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);

  const METER = `registerProcessor("meter", class extends AudioWorkletProcessor {
    energy = 0;
    count = 0;
    process([[channel]]) {
      for (const sample of channel ?? new Float32Array(128)) this.energy += sample * sample;
      this.count += 128;
      if (this.count >= sampleRate / 100) {
        this.port.postMessage([currentTime * 1000, Math.sqrt(this.energy / this.count)]);
        this.energy = this.count = 0;
      }
      return true;
    }
  });`;

  /** Begin to listen; the page's policy must allow scripts from blobs. */
  window.listen = async () => {
    const sound = new AudioContext();
    await sound.audioWorklet.addModule(URL.createObjectURL(new Blob([METER], { type: "text/javascript" })));
    const meter = new AudioWorkletNode(sound, "meter", { numberOfOutputs: 0 });
    // Messages wait when the page is busy; the quickest one tells how the two clocks relate.
    let offset = Infinity;
    meter.port.onmessage = ({ data: [atMs, level] }) => {
      offset = Math.min(offset, performance.now() - atMs);
      watch.sound.push([atMs + offset, level]);
    };
    sound.createMediaStreamSource(video.srcObject).connect(meter);
    await sound.resume();
  };
})();
