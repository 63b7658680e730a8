/**
 * A transparent page: with `?key` in its address, the green behind an avatar (background "green") is see-through.
 *
 * Each frame is drawn on a canvas over the video, with an alpha that follows how far its chroma is from the green;
 * what green light the person reflects is taken back. A page of your own can do the same with these 100 lines.
 */

/** #00b140, as serve_app/avatars/background.py paints it. */
const GREEN = [0, 177 / 255, 64 / 255];

/**
 * Distances in chroma (Cb, Cr of BT.601, full scale 1): up to the first all green, from the second on none.
 * Grey is 0.33 from the green, skin 0.4 and more.
 */
const [NEAR, FAR] = [0.14, 0.3];

const VERTICES = `
attribute vec2 corner;
varying vec2 place;
void main() {
  place = vec2(corner.x, 1.0 - corner.y);
  gl_Position = vec4(2.0 * corner - 1.0, 0.0, 1.0);
}`;

const FRAGMENTS = `
precision mediump float;
uniform sampler2D frame;
uniform vec3 green;
uniform vec2 reach;
varying vec2 place;
vec2 chroma(vec3 rgb) {
  return vec2(dot(rgb, vec3(-0.169, -0.331, 0.5)), dot(rgb, vec3(0.5, -0.419, -0.081)));
}
void main() {
  vec3 rgb = texture2D(frame, place).rgb;
  float alpha = smoothstep(reach.x, reach.y, distance(chroma(rgb), chroma(green)));
  rgb.g = min(rgb.g, max(rgb.r, rgb.b));
  gl_FragColor = vec4(rgb * alpha, alpha);
}`;

/** Whether the page's address asks for it. */
export function isKeyed() {
  return new URL(location.href).searchParams.has("key");
}

/**
 * Show a video keyed, for ever.
 *
 * @param {HTMLVideoElement} video
 * @returns {HTMLCanvasElement | null} null where the browser has no WebGL; the video is shown as it is
 */
export function key(video) {
  const canvas = document.createElement("canvas");
  const gl = canvas.getContext("webgl", { alpha: true, antialias: false, preserveDrawingBuffer: true });
  if (!gl) return null;
  const program = programOf(gl);
  gl.useProgram(program);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([0, 0, 1, 0, 0, 1, 1, 1]), gl.STATIC_DRAW);
  gl.enableVertexAttribArray(0);
  gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
  gl.uniform3fv(gl.getUniformLocation(program, "green"), GREEN);
  gl.uniform2f(gl.getUniformLocation(program, "reach"), NEAR, FAR);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  for (const [name, value] of [
    [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE],
    [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE],
    [gl.TEXTURE_MIN_FILTER, gl.LINEAR],
    [gl.TEXTURE_MAG_FILTER, gl.LINEAR],
  ]) {
    gl.texParameteri(gl.TEXTURE_2D, name, value);
  }
  const draw = () => {
    if (canvas.width !== video.videoWidth || canvas.height !== video.videoHeight) {
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
      gl.viewport(0, 0, canvas.width, canvas.height);
    }
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, video);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    video.requestVideoFrameCallback(draw);
  };
  video.requestVideoFrameCallback(draw);
  canvas.className = "keyed";
  canvas.setAttribute("aria-hidden", "true");
  video.after(canvas);
  document.body.dataset.keyed = "true";
  return canvas;
}

/** @param {WebGLRenderingContext} gl */
function programOf(gl) {
  const program = /** @type {WebGLProgram} */ (gl.createProgram());
  for (const [kind, source] of /** @type {[number, string][]} */ ([
    [gl.VERTEX_SHADER, VERTICES],
    [gl.FRAGMENT_SHADER, FRAGMENTS],
  ])) {
    const shader = /** @type {WebGLShader} */ (gl.createShader(kind));
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.bindAttribLocation(program, 0, "corner");
  gl.linkProgram(program);
  return program;
}
