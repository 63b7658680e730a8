/** A peer whose offer, answer and candidates travel over the socket of its session. */

import { Peer, preferH264 } from "./peer.js";

export class SignalledPeer extends Peer {
  /**
   * @param {RTCIceServer[]} iceServers
   * @param {(message: Record<string, unknown> & {type: string}) => void} signal sends to the server
   */
  constructor(iceServers, signal) {
    super(iceServers);
    this.signal = signal;
    /** @type {(RTCIceCandidateInit | null)[]} */
    this.early = [];
  }

  /** Make the offer and send it; candidates follow as they are found. */
  async start() {
    const video = this.connection.addTransceiver("video", { direction: "recvonly" });
    this.connection.addTransceiver("audio", { direction: "recvonly" });
    preferH264(video);
    await this.offer();
    if (this.state === "closed") return;
    this.signal({ type: "webrtc.offer", sdp: this.connection.localDescription?.sdp });
  }

  /**
   * Take the server's answer, and the candidates that came before it.
   *
   * @param {string} sdp
   */
  async accept(sdp) {
    await super.accept(sdp);
    for (const candidate of this.early.splice(0)) await this.addCandidate(candidate);
  }

  /**
   * Take a candidate of the server's; null ends them.
   *
   * @param {RTCIceCandidateInit | null} candidate
   */
  async addCandidate(candidate) {
    if (!this.answered) {
      this.early.push(candidate);
      return;
    }
    if (candidate?.candidate) this.remoteCandidates.add(candidate.candidate);
    await this.connection.addIceCandidate(candidate ?? undefined);
  }

  /** @param {RTCIceCandidate | null} candidate */
  found(candidate) {
    super.found(candidate);
    if (!candidate) this.signal({ type: "webrtc.ice_candidate", candidate: null });
    if (!candidate?.candidate) return;
    const { candidate: line, sdpMid, sdpMLineIndex } = candidate;
    this.signal({ type: "webrtc.ice_candidate", candidate: { candidate: line, sdpMid, sdpMLineIndex } });
  }
}
