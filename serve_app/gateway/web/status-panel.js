/** The panel of figures: what a person asks first. */

import { element, make } from "./page.js";

/** @typedef {"idle" | "wait" | "good" | "bad"} Level */

/** Names people know for the codecs of RTP. */
const CODEC_NAMES = { H264: "H.264", H265: "H.265" };

/**
 * Set one of the lights: "socket", "ice", "media" or "overall".
 *
 * @param {"socket" | "ice" | "media" | "overall"} id
 * @param {string} text
 * @param {Level} level
 */
export function showLight(id, text, level) {
  const light = element(id);
  if (light.textContent !== text) light.textContent = text;
  light.dataset.level = level;
}

/**
 * @param {import("./stats.js").MediaFigures | null} figures
 * @param {number} wantedFps
 */
export function showFigures(figures, wantedFps) {
  showTile("fps", figures?.fps?.toFixed(0), "fps", `of ${wantedFps}`);
  const { width, height, codec } = figures ?? {};
  const codecName = CODEC_NAMES[/** @type {keyof typeof CODEC_NAMES} */ (codec ?? "")] ?? codec;
  showText("picture", width && codecName && `${width} × ${height} · ${codecName}`);
  showText("bitrate", figures?.kbps != null && rate(figures.kbps));
  showText("lost", figures && figures.packetsReceived > 0 && losses(figures));
  showText("jitter", figures?.jitterMs != null && `${figures.jitterMs.toFixed(1)} ms`);
  showText("round-trip", figures?.roundTripMs != null && `${figures.roundTripMs.toFixed(figures.roundTripMs < 10 ? 1 : 0)} ms`);
}

/**
 * @param {import("./latency.js").Latency | null} latency null: nothing is measured yet
 * @param {string} [hint] what to do for a figure
 */
export function showLatency(latency, hint = "") {
  const source = latency?.source === "picture" ? "seen in the picture" : "as the server says";
  showTile("latency", latency?.ms.toFixed(0), "ms", latency ? source : hint);
}

/** @param {string | null} sessionId */
export function showSession(sessionId) {
  showText("session", sessionId);
  element("session").title = sessionId ?? "";
  element("copy", HTMLButtonElement).disabled = !sessionId;
}

/**
 * @param {string} id
 * @param {string | undefined} value
 * @param {string} unit
 * @param {string} noteText
 */
function showTile(id, value, unit, noteText) {
  const content = value === undefined ? make("span", { class: "none" }, "–") : value;
  element(id).replaceChildren(content, ...(value === undefined ? [] : [make("small", {}, unit)]));
  element(`${id}-note`).textContent = noteText;
  const tiles = [element("latency").textContent, element("fps").textContent];
  element("brief").textContent = tiles.filter((text) => text && text !== "–").map((text) => text?.replace(/(\d)([a-z])/, "$1 $2")).join(" · ");
}

/**
 * @param {string} id
 * @param {string | false | 0 | null | undefined} text
 */
function showText(id, text) {
  element(id).textContent = text || "–";
}

/** @param {number} kbps */
function rate(kbps) {
  return kbps >= 1000 ? `${(kbps / 1000).toFixed(2)} Mb/s` : `${kbps.toFixed(0)} kb/s`;
}

/** @param {import("./stats.js").MediaFigures} figures */
function losses({ packetsLost, packetsReceived }) {
  return `${packetsLost} (${((100 * packetsLost) / (packetsLost + packetsReceived)).toFixed(1)} %)`;
}
