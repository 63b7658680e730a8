/**
 * The browser's side of AG2's RealtimeAgent, against this server.
 *
 * Takes the place of AG2's own script, which has OpenAI's address in it: same name, `ag2client.WebRTC`, same
 * methods. The address comes with the key (`config.base_url`), else it is where this script came from. Besides,
 * it asks for the avatar's picture, and shows it in `video`, in an element with the id "avatar", or in a new one.
 */
(function () {
  "use strict";

  /** Where the SDP offer goes when `ag2.init` does not say. */
  const OWN_BASE = new URL("../v1/realtime", document.currentScript?.src ?? location.href).href;

  /** Longest wait for local ICE candidates; the server cannot be told of later ones. */
  const GATHER_MS = 1000;

  /** A connection may recover from "disconnected" by itself within this time. */
  const RECOVERY_MS = 5000;

  class WebRTC {
    /**
     * @param {string} socketUrl the backend's WebSocket
     * @param {MediaStreamTrack} [microphone] asked for when missing
     */
    constructor(socketUrl, microphone) {
      this.socketUrl = socketUrl;
      this.microphone = microphone;
      /** @type {HTMLVideoElement | null} */
      this.video = null;
      /** Called once, when the call or its socket has ended. */
      this.onDisconnect = () => {};
      /** Called with every event of the conversation. @type {(event: any) => void} */
      this.onEvent = () => {};
      /** @type {WebSocket | null} */
      this.socket = null;
      /** @type {RTCPeerConnection | null} */
      this.peer = null;
      /** @type {RTCDataChannel | null} */
      this.channel = null;
      /** @type {string[]} */
      this.waiting = [];
      this.hasEnded = false;
    }

    /** Resolves when the call is up and the microphone is on. */
    async connect() {
      this.microphone ??= (await navigator.mediaDevices.getUserMedia({ audio: true })).getAudioTracks()[0];
      this.microphone.enabled = false;
      this.socket = new WebSocket(this.socketUrl);
      await new Promise((resolve, reject) => {
        const fail = (error) => {
          reject(error);
          this.close();
        };
        this.socket.onmessage = ({ data }) => {
          const message = JSON.parse(data);
          if (message.type === "ag2.init") this.open(message).then(resolve, fail);
          else if (message.type === "ag2.error") this.complain(message, fail);
          else this.send(data);
        };
        this.socket.onclose = () => fail(new Error("the backend closed its socket"));
      });
    }

    /** Ends the call; `onDisconnect` is called once. */
    close() {
      if (this.hasEnded) return;
      this.hasEnded = true;
      this.microphone?.stop();
      this.channel?.close();
      this.peer?.close();
      this.socket?.close();
      this.onDisconnect();
    }

    /** Send text to the conversation, now or when its channel opens. @param {string} text */
    send(text) {
      if (this.channel?.readyState === "open") this.channel.send(text);
      else this.waiting.push(text);
    }

    /** @param {{config: any, init?: object[]}} message */
    async open({ config, init = [] }) {
      const peer = new RTCPeerConnection({ iceServers: config.ice_servers ?? [] });
      this.peer = peer;
      peer.addTrack(this.microphone, new MediaStream([this.microphone]));
      if (config.video !== false) peer.addTransceiver("video", { direction: "recvonly" });
      this.showTracks(peer);
      this.watch(peer);
      const channel = peer.createDataChannel("oai-events");
      channel.onmessage = ({ data }) => this.hear(data);
      const opened = new Promise((resolve) => {
        channel.onopen = resolve;
      });

      await peer.setLocalDescription();
      await gathered(peer);
      await peer.setRemoteDescription({ type: "answer", sdp: await answerTo(peer.localDescription.sdp, config) });
      await opened;

      for (const event of init) channel.send(JSON.stringify(event));
      for (const text of this.waiting.splice(0)) channel.send(text);
      this.channel = channel;
      this.microphone.enabled = true;
    }

    /** Pass function events on to the backend. @param {string} data */
    hear(data) {
      const event = JSON.parse(data);
      if (String(event.type).includes("function") && this.socket?.readyState === WebSocket.OPEN) {
        this.socket.send(data);
      }
      this.onEvent(event);
    }

    /** @param {RTCPeerConnection} peer */
    showTracks(peer) {
      const video = this.video ?? document.getElementById("avatar") ?? document.createElement("video");
      if (!video.isConnected) document.body.append(video);
      video.autoplay = true;
      video.playsInline = true;
      const stream = new MediaStream();
      peer.ontrack = ({ track }) => {
        stream.addTrack(track);
        video.srcObject = stream;
        // Refused without a click; the controls offer one.
        video.play().catch(() => {
          video.controls = true;
        });
      };
    }

    /** @param {RTCPeerConnection} peer */
    watch(peer) {
      let timer = 0;
      peer.onconnectionstatechange = () => {
        clearTimeout(timer);
        if (peer.connectionState === "failed" || peer.connectionState === "closed") this.close();
        if (peer.connectionState === "disconnected") timer = setTimeout(() => this.close(), RECOVERY_MS);
      };
    }

    /** @param {{message?: string}} message @param {(error: Error) => void} fail */
    complain(message, fail) {
      console.error("AG2 backend:", message.message);
      // Before the call there is none: the socket was refused.
      if (!this.peer) fail(new Error(message.message ?? "the backend refused"));
    }
  }

  /**
   * Post an offer and return the answer.
   *
   * @param {string} sdp
   * @param {{base_url?: string, model: string, client_secret: {value: string}}} config
   */
  async function answerTo(sdp, config) {
    const address = `${config.base_url ?? OWN_BASE}?model=${encodeURIComponent(config.model)}`;
    const response = await fetch(address, {
      method: "POST",
      body: sdp,
      headers: { Authorization: `Bearer ${config.client_secret.value}`, "Content-Type": "application/sdp" },
    });
    if (response.ok) return response.text();
    const told = await response.json().catch(() => null);
    throw new Error(told?.error?.message ?? `the server answered ${response.status}`);
  }

  /** @param {RTCPeerConnection} peer */
  function gathered(peer) {
    return new Promise((resolve) => {
      const look = () => peer.iceGatheringState === "complete" && resolve(undefined);
      peer.addEventListener("icegatheringstatechange", look);
      setTimeout(resolve, GATHER_MS);
      look();
    });
  }

  globalThis.ag2client = { ...globalThis.ag2client, WebRTC };
})();
