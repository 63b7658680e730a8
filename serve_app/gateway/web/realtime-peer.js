/** A peer of the Realtime door: one offer, one answer, and the conversation's events in a data channel. */

import { emit } from "./events.js";
import { Peer, preferH264 } from "./peer.js";
import { hangUp, mint, postOffer } from "./realtime-door.js";

/** The channel's name in OpenAI's protocol. */
const CHANNEL = "oai-events";

/** Longest wait for this browser's own candidates: the offer is sent once, with those that it has. */
const GATHER_MS = 1500;

/** Events, besides a peer's: `open` {} and `closed` {} of the channel, `event` {a server event}. */
export class RealtimePeer extends Peer {
  /**
   * @param {object} call
   * @param {string} call.avatarId
   * @param {Record<string, unknown>} call.session settings the call begins with
   * @param {MediaStreamTrack | null} call.microphone null: the avatar hears nothing
   */
  constructor({ avatarId, session, microphone }) {
    super();
    this.avatarId = avatarId;
    this.session = session;
    this.microphone = microphone;
    this.location = "";
    /** @type {Promise<void> | null} */
    this.leaving = null;
    this.channel = this.connection.createDataChannel(CHANNEL);
    this.channel.onopen = () => emit(this, "open");
    this.channel.onclose = () => emit(this, "closed");
    this.channel.onmessage = ({ data }) => emit(this, "event", JSON.parse(data));
  }

  /**
   * Mint a key, post the offer and take the answer.
   *
   * @throws {DoorError} when the server refuses
   */
  async start() {
    const { value: key, ice_servers: iceServers } = await mint(this.session);
    if (this.state === "closed") return;
    this.connection.setConfiguration({ ...this.connection.getConfiguration(), iceServers: iceServers ?? [] });
    if (this.microphone) this.connection.addTrack(this.microphone, new MediaStream([this.microphone]));
    else this.connection.addTransceiver("audio", { direction: "recvonly" });
    preferH264(this.connection.addTransceiver("video", { direction: "recvonly" }));
    await this.offer();
    await gathered(this.connection);
    const sdp = this.connection.localDescription?.sdp;
    if (this.state === "closed" || !sdp) return;
    const answer = await postOffer(key, sdp, this.avatarId);
    this.location = answer.location;
    // Left while the answer was on its way: nobody else would end that call.
    if (/** @type {string} */ (this.state) === "closed") await hangUp(this.location);
    else await this.accept(answer.sdp);
  }

  /**
   * Send a client event.
   *
   * @param {Record<string, unknown> & {type: string}} event
   * @returns {boolean} false when the channel is not open
   */
  send(event) {
    if (this.channel.readyState !== "open") return false;
    this.channel.send(JSON.stringify(event));
    return true;
  }

  /** The server has ended the call; there is nothing to hang up. */
  ended() {
    this.location = "";
  }

  close() {
    this.channel.onopen = this.channel.onclose = this.channel.onmessage = null;
    const { location } = this;
    this.ended();
    if (!location) super.close();
    // Once the peer is gone the server knows of no call any more: it is hung up first.
    else this.leaving ??= hangUp(location).finally(() => super.close());
    this.silence();
  }
}

/**
 * @param {RTCPeerConnection} connection
 * @returns {Promise<void>}
 */
function gathered(connection) {
  return new Promise((resolve) => {
    const look = () => connection.iceGatheringState === "complete" && resolve();
    connection.addEventListener("icegatheringstatechange", look);
    setTimeout(resolve, GATHER_MS);
    look();
  });
}
