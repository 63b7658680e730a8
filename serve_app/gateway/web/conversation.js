/**
 * The client's side of a conversation of OpenAI Realtime (GA): what is said, heard and called, and whose turn
 * it is, read off the server's events; and the client events for what a person does.
 */

import { emit } from "./events.js";

/** Sound that was spoken before the button was let go is still on its way for so long. */
const TAIL_MS = 250;

/** A shorter press of the button holds nothing to answer; the server wants 100 ms. */
const SHORTEST_PRESS_MS = 350;

/** An answer that was made and is not heard by then makes no sound. */
const HEARD_BY_MS = 3000;

const SERVER_VAD = { type: "server_vad" };

/**
 * @typedef {"connecting" | "listening" | "hearing" | "thinking" | "speaking" | "waiting"} Turn
 *   waiting: nobody speaks, and nobody is listened to
 *
 * @typedef {object} Entry one line of the transcript
 * @property {string} id of the item
 * @property {"you" | "avatar" | "tool"} who
 * @property {"open" | "speaking" | "done" | "interrupted" | "failed"} state
 * @property {string} text
 * @property {string | null} heard the words that were heard before the interruption; null: not known
 * @property {boolean} isSpoken whether it is or was sound
 * @property {number | null} seconds of sound
 * @property {string} problem why it failed
 * @property {{name: string, args: string, output: string | null} | null} tool
 */

/**
 * Events: `turn` {turn}, `entry` {Entry} when a line is new or has changed, `sent` {} when a turn of the
 * person's has ended and an answer is awaited, `sound` {on} when the avatar begins or ends to be heard,
 * `fault` {code, message}, `ready` {sessionId}.
 */
export class Conversation extends EventTarget {
  /** @param {import("./tools.js").Tools} tools */
  constructor(tools) {
    super();
    this.tools = tools;
    this.pushToTalk = false;
    this.#forget(() => false, false);
  }

  /**
   * A new call begins.
   *
   * @param {(event: Record<string, unknown> & {type: string}) => boolean} send
   * @param {boolean} hears whether the call has a microphone
   */
  begin(send, hears) {
    this.#forget(send, hears);
    this.#tellTurn();
  }

  /** The call is over: what was going on stays as it was heard. */
  end() {
    for (const entry of this.entries.values()) {
      if (entry.state === "open" || entry.state === "speaking") this.#change(entry, { state: entry.who === "you" ? "done" : "interrupted" });
    }
    this.#forget(() => false, false);
  }

  /** @returns {Turn} */
  get turn() {
    if (!this.isReady) return "connecting";
    if (this.isHearing) return "hearing";
    if (this.playing.size) return "speaking";
    if (this.isAnswering || this.isWanted || this.running || this.unheard.size) return "thinking";
    return this.hears && !this.pushToTalk && !this.isMuted ? "listening" : "waiting";
  }

  /** Whether there is anything to interrupt. */
  get isBusy() {
    return this.isReady && (this.isAnswering || this.isWanted || this.unheard.size > 0 || this.playing.size > 0);
  }

  /** @param {boolean} muted whether the person switched the microphone off */
  set muted(muted) {
    this.isMuted = muted;
    this.#tellTurn();
  }

  /**
   * Say something in writing; it is answered.
   *
   * @param {string} text
   */
  write(text) {
    const id = `item_${crypto.randomUUID().replaceAll("-", "").slice(0, 24)}`;
    this.#entry(id, { who: "you", state: "done", text });
    const item = { id, type: "message", role: "user", content: [{ type: "input_text", text }] };
    this.send({ type: "conversation.item.create", event_id: id, item });
    this.#sent();
    this.#respond();
  }

  /** Let the avatar fall silent, and drop what it was going to say. */
  interrupt() {
    if (!this.isReady) return;
    this.isWanted = false;
    if (this.responseId) this.send({ type: "response.cancel", response_id: this.responseId });
    this.send({ type: "output_audio_buffer.clear" });
  }

  /** @param {boolean} on whether the person says with a button when they speak */
  setPushToTalk(on) {
    this.pushToTalk = on;
    this.#dropTurn();
    if (this.isReady) this.#update({ audio: { input: { turn_detection: on ? null : SERVER_VAD } } });
    this.#tellTurn();
  }

  /** The button is pressed: what comes now is a turn. */
  press() {
    if (!this.isReady || this.isHearing) return;
    this.interrupt();
    this.send({ type: "input_audio_buffer.clear" });
    this.isHearing = true;
    this.pressedAtMs = performance.now();
    this.#tellTurn();
  }

  /** The button is let go: the turn is answered. */
  release() {
    if (!this.isHearing || !this.pushToTalk) return;
    const heldMs = performance.now() - this.pressedAtMs;
    this.isHearing = false;
    this.#tellTurn();
    if (heldMs < SHORTEST_PRESS_MS) return;
    this.pressedS = heldMs / 1000;
    this.#sent();
    const { send } = this;
    setTimeout(() => {
      if (send !== this.send) return;
      this.send({ type: "input_audio_buffer.commit" });
      this.#respond();
    }, TAIL_MS);
  }

  /**
   * Take a server event.
   *
   * @param {any} event
   */
  receive(event) {
    switch (event.type) {
      case "session.created":
        this.isReady = true;
        this.#update({
          tools: this.tools.descriptions,
          tool_choice: "auto",
          audio: { input: { transcription: { model: "whisper-1" }, turn_detection: this.pushToTalk ? null : SERVER_VAD } },
        });
        emit(this, "ready", { sessionId: event.session.id });
        break;
      case "input_audio_buffer.speech_started":
        this.isHearing = true;
        this.startedAtMs = event.audio_start_ms;
        this.#entry(event.item_id, { who: "you", state: "open", isSpoken: true });
        break;
      case "input_audio_buffer.speech_stopped":
        this.isHearing = false;
        this.#entry(event.item_id, { state: "done", seconds: (event.audio_end_ms - this.startedAtMs) / 1000 });
        this.#sent();
        break;
      case "conversation.item.added":
        this.#added(event.item);
        break;
      case "conversation.item.input_audio_transcription.delta":
        this.#append(event.item_id, event.delta);
        break;
      case "conversation.item.input_audio_transcription.completed":
        this.#entry(event.item_id, { text: event.transcript });
        break;
      case "conversation.item.truncated":
        this.send({ type: "conversation.item.retrieve", item_id: event.item_id });
        break;
      case "conversation.item.retrieved":
        this.#entry(event.item.id, { heard: event.item.content?.[0]?.transcript ?? "" });
        break;
      case "output_audio_buffer.started":
        this.#playing(event.response_id, "speaking");
        break;
      case "output_audio_buffer.stopped":
        this.#playing(event.response_id, "done");
        break;
      case "output_audio_buffer.cleared":
        this.#playing(event.response_id, "interrupted");
        break;
      case "error":
        this.#fault(event.error);
        break;
      default:
        if (event.type.startsWith("response.")) this.#response(event);
    }
    this.#tellTurn();
  }

  /** @param {any} event about a response */
  #response(event) {
    switch (event.type) {
      case "response.created":
        this.isAnswering = true;
        this.responseId = event.response.id;
        break;
      case "response.output_item.added":
        this.#outputAdded(event.response_id, event.item);
        break;
      case "response.output_audio_transcript.delta":
      case "response.output_text.delta":
        this.#append(event.item_id, event.delta);
        break;
      case "response.output_audio_transcript.done":
        this.#entry(event.item_id, { text: event.transcript });
        break;
      case "response.output_text.done":
        this.#entry(event.item_id, { text: event.text, state: "done" });
        break;
      case "response.function_call_arguments.done":
        this.#callTool(event);
        break;
      case "response.done":
        this.#done(event.response);
        break;
      default:
        break;
    }
  }

  /**
   * @param {string} responseId
   * @param {any} item
   */
  #outputAdded(responseId, item) {
    if (item.type === "function_call") {
      this.#entry(item.id, { who: "tool", state: "open", tool: { name: item.name, args: item.arguments, output: null } });
    } else if (item.role === "assistant") {
      const isSpoken = this.#isSpoken(item);
      this.spoken.set(responseId, item.id);
      if (isSpoken) this.unheard.add(responseId);
      this.#entry(item.id, { who: "avatar", state: "open", isSpoken });
    }
  }

  /** @param {any} item that a response makes; whether it is spoken is seen from its parts, if it has any yet */
  #isSpoken(item) {
    return item.content?.[0]?.type !== "output_text";
  }

  /** @param {any} item */
  #added(item) {
    const isSpokenTurn = item.role === "user" && item.content?.some((/** @type {any} */ part) => part.type === "input_audio");
    if (!isSpokenTurn) return;
    const known = this.entries.has(item.id);
    this.#entry(item.id, { who: "you", state: "done", isSpoken: true, ...(known ? {} : { seconds: this.pressedS }) });
  }

  /** @param {{name?: string, call_id: string, item_id: string, arguments: string}} call */
  async #callTool({ name: named, call_id: callId, item_id: itemId, arguments: args }) {
    const { send } = this;
    const name = named ?? this.entries.get(itemId)?.tool?.name ?? "";
    this.#entry(itemId, { tool: { name, args, output: null } });
    this.running += 1;
    const { output, isError } = await this.tools.call(name, args);
    if (send !== this.send) return;
    this.running -= 1;
    this.#entry(itemId, { state: isError ? "failed" : "done", tool: { name, args, output } });
    this.send({ type: "conversation.item.create", item: { type: "function_call_output", call_id: callId, output } });
    // Results of calls that were made together share one answer.
    if (this.running === 0) this.#respond();
  }

  /** @param {any} response */
  #done(response) {
    if (response.id !== this.responseId) return;
    this.isAnswering = false;
    this.responseId = "";
    setTimeout(() => this.#heard(response.id), HEARD_BY_MS);
    const { status, status_details: details } = response;
    const itemId = this.spoken.get(response.id);
    const entry = itemId === undefined ? undefined : this.entries.get(itemId);
    if (status === "failed") {
      const message = details?.error?.message ?? "The agent could not answer.";
      if (entry) this.#change(entry, { state: "failed", problem: message });
      emit(this, "fault", { code: details?.error?.code ?? "", message });
    } else if (status === "cancelled" && entry && entry.state !== "speaking") {
      this.#change(entry, { state: "interrupted" });
    }
    if (status !== "completed") this.unheard.delete(response.id);
    if (this.isWanted) this.#respond();
  }

  /** Ask for an answer, now or when the one that is being made is complete. */
  #respond() {
    this.isWanted = this.isAnswering;
    if (this.isAnswering) return;
    this.isAnswering = true;
    this.send({ type: "response.create", event_id: "answer" });
    this.#tellTurn();
  }

  /** @param {Record<string, unknown>} session */
  #update(session) {
    this.send({ type: "session.update", session: { type: "realtime", ...session } });
  }

  /** @param {{code: string, message: string, event_id: string | null}} error */
  #fault({ code, message, event_id: eventId }) {
    // The server began an answer by itself in the same moment; ours follows it. Or it ended just before it was cancelled.
    if (code === "conversation_already_has_active_response") {
      this.isWanted = true;
      return;
    }
    if (code === "response_cancel_not_active") return;
    if (eventId === "answer") this.isAnswering = false;
    const written = eventId ? this.entries.get(eventId) : undefined;
    if (written) this.#change(written, { state: "failed", problem: message });
    emit(this, "fault", { code, message });
  }

  /**
   * @param {string} responseId
   * @param {"speaking" | "done" | "interrupted"} state
   */
  #playing(responseId, state) {
    const startedAtMs = this.playing.get(responseId) ?? performance.now();
    if (state === "speaking") this.playing.set(responseId, startedAtMs);
    else this.playing.delete(responseId);
    this.unheard.delete(responseId);
    const entry = this.entries.get(this.spoken.get(responseId) ?? "");
    const seconds = state === "speaking" ? null : (performance.now() - startedAtMs) / 1000;
    if (entry) this.#change(entry, { state, seconds });
    emit(this, "sound", { on: this.playing.size > 0 });
  }

  /** The server is told to listen in another way, and forgets the turn that has begun. */
  #dropTurn() {
    this.isHearing = false;
    for (const entry of this.entries.values()) {
      if (entry.who === "you" && entry.state === "open") this.#change(entry, { state: "interrupted" });
    }
  }

  /** @param {string} responseId */
  #heard(responseId) {
    if (!this.unheard.delete(responseId)) return;
    const entry = this.entries.get(this.spoken.get(responseId) ?? "");
    if (entry?.state === "open") this.#change(entry, { state: "done" });
    this.#tellTurn();
  }

  #sent() {
    emit(this, "sent");
  }

  /**
   * @param {string} id
   * @param {string} text
   */
  #append(id, text) {
    this.#entry(id, { text: (this.entries.get(id)?.text ?? "") + text });
  }

  /**
   * Make a line, or change it.
   *
   * @param {string} id
   * @param {Partial<Entry>} changes
   */
  #entry(id, changes) {
    let entry = this.entries.get(id);
    if (!entry) {
      if (!changes.who) return;
      entry = { id, who: changes.who, state: "open", text: "", heard: null, isSpoken: false, seconds: null, problem: "", tool: null };
      this.entries.set(id, entry);
    }
    this.#change(entry, changes);
  }

  /**
   * @param {Entry} entry
   * @param {Partial<Entry>} changes
   */
  #change(entry, changes) {
    Object.assign(entry, changes);
    emit(this, "entry", entry);
  }

  /**
   * @param {(event: Record<string, unknown> & {type: string}) => boolean} send
   * @param {boolean} hears
   */
  #forget(send, hears) {
    this.send = send;
    this.hears = hears;
    this.isReady = false;
    this.isHearing = false;
    this.isAnswering = false;
    this.isWanted = false;
    this.isMuted = false;
    this.running = 0;
    this.responseId = "";
    this.startedAtMs = 0;
    this.pressedAtMs = 0;
    /** @type {number | null} */
    this.pressedS = null;
    /** Responses that are being heard, and since when. @type {Map<string, number>} */
    this.playing = new Map();
    /** Responses whose sound is yet to be heard. @type {Set<string>} */
    this.unheard = new Set();
    /** Which item a response speaks. @type {Map<string, string>} */
    this.spoken = new Map();
    /** @type {Map<string, Entry>} */
    this.entries = new Map();
  }

  #tellTurn() {
    emit(this, "turn", { turn: this.turn });
  }
}
