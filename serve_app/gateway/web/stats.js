/**
 * What the browser measures on the media that arrives (W3C webrtc-stats), as plain figures.
 */

/**
 * @typedef {object} MediaFigures
 * @property {number | null} fps decoded frames in a second
 * @property {number | null} kbps received picture and sound, kilobits in a second
 * @property {number | null} width pixels
 * @property {number | null} height pixels
 * @property {string | null} codec of the picture, for example "H264"
 * @property {number} packetsLost picture and sound, since the peer began
 * @property {number} packetsReceived picture and sound, since the peer began
 * @property {number | null} jitterMs of the picture's packets
 * @property {number | null} roundTripMs on the path in use
 * @property {number} framesDecoded since the peer began
 * @property {string | null} route how the media travels, in words
 */

/** Reads a peer's figures; keeps the last reading to tell rates. */
export class MediaStats {
  /** @param {RTCPeerConnection} connection */
  constructor(connection) {
    this.connection = connection;
    this.lastMs = 0;
    this.lastBytes = 0;
    this.lastFrames = 0;
  }

  /** @returns {Promise<MediaFigures>} */
  async read() {
    const report = await this.connection.getStats();
    const inbound = [...report.values()].filter((entry) => entry.type === "inbound-rtp");
    const video = inbound.find((entry) => entry.kind === "video");
    const pair = selectedPair(report);
    const bytes = sum(inbound, "bytesReceived");
    const frames = video?.framesDecoded ?? 0;
    const rates = this.#rates(video?.timestamp ?? performance.now(), bytes, frames);
    return {
      ...rates,
      width: video?.frameWidth ?? null,
      height: video?.frameHeight ?? null,
      codec: video?.codecId ? codecName(report.get(video.codecId)) : null,
      packetsLost: Math.max(0, sum(inbound, "packetsLost")),
      packetsReceived: sum(inbound, "packetsReceived"),
      jitterMs: milliseconds(video?.jitter),
      roundTripMs: milliseconds(pair?.currentRoundTripTime),
      framesDecoded: frames,
      route: pair ? routeName(report, pair) : null,
    };
  }

  /**
   * @param {number} nowMs
   * @param {number} bytes
   * @param {number} frames
   */
  #rates(nowMs, bytes, frames) {
    const elapsedS = (nowMs - this.lastMs) / 1000;
    const known = this.lastMs > 0 && elapsedS > 0.2;
    const rates = {
      fps: known ? Math.max(0, (frames - this.lastFrames) / elapsedS) : null,
      kbps: known ? Math.max(0, ((bytes - this.lastBytes) * 8) / 1000 / elapsedS) : null,
    };
    this.lastMs = nowMs;
    this.lastBytes = bytes;
    this.lastFrames = frames;
    return rates;
  }
}

/**
 * The candidate pairs that were tried, one line each.
 *
 * @param {RTCPeerConnection} connection
 * @returns {Promise<string[]>}
 */
export async function triedPairs(connection) {
  const report = await connection.getStats();
  return [...report.values()]
    .filter((entry) => entry.type === "candidate-pair")
    .map((pair) => {
      const local = endpoint(report.get(pair.localCandidateId));
      const remote = endpoint(report.get(pair.remoteCandidateId));
      return `${local} → ${remote} (${pair.state})`;
    });
}

/** @param {RTCStatsReport} report */
function selectedPair(report) {
  const entries = [...report.values()];
  const transport = entries.find((entry) => entry.type === "transport" && entry.selectedCandidatePairId);
  if (transport) return report.get(transport.selectedCandidatePairId);
  return entries.find((entry) => entry.type === "candidate-pair" && entry.nominated && entry.state === "succeeded");
}

/** @param {any} candidate */
function endpoint(candidate) {
  if (!candidate) return "unknown";
  const address = candidate.address ?? candidate.ip ?? "hidden address";
  return `${candidate.candidateType} ${candidate.protocol} ${address || "hidden address"}:${candidate.port}`;
}

/**
 * @param {RTCStatsReport} report
 * @param {any} pair
 */
function routeName(report, pair) {
  const local = report.get(pair.localCandidateId);
  const remote = report.get(pair.remoteCandidateId);
  const relayed = local?.candidateType === "relay" || remote?.candidateType === "relay";
  const protocol = (local?.relayProtocol ?? local?.protocol ?? "udp").toUpperCase();
  return `${relayed ? "through TURN" : "direct"} · ${protocol}`;
}

/** @param {any} codec */
function codecName(codec) {
  return codec?.mimeType?.split("/")[1] ?? null;
}

/**
 * @param {any[]} entries
 * @param {string} field
 */
function sum(entries, field) {
  return entries.reduce((total, entry) => total + (entry[field] ?? 0), 0);
}

/** @param {number | undefined} seconds */
function milliseconds(seconds) {
  return seconds === undefined ? null : seconds * 1000;
}
