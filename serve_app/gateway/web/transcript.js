/** The conversation in words, newest last: who said what, what is being said now, what was cut, what was called. */

import { element, icon, make } from "./page.js";

/** Older lines go. */
const MAX_LINES = 300;

const NAMES = { you: "You", avatar: "Avatar", tool: "Tool" };

/** Lines by the id of their item, in the list `transcript`. */
export class Transcript {
  constructor() {
    this.list = element("transcript");
    /** @type {Map<string, HTMLElement>} */
    this.lines = new Map();
  }

  /**
   * Add a line, or show what has become of it.
   *
   * @param {import("./conversation.js").Entry} entry
   */
  show(entry) {
    const atEnd = this.#isAtEnd();
    let line = this.lines.get(entry.id);
    if (!line) {
      line = make("li", { class: "line" });
      this.lines.set(entry.id, line);
      this.list.append(line);
      this.#forgetOldest();
    }
    line.dataset.who = entry.who;
    line.dataset.state = entry.state;
    // Screen readers are told of a line once, when it is complete.
    line.setAttribute("aria-busy", String(entry.state === "open"));
    const mark = stateInWords(entry);
    update(line, [
      make("span", { class: "who" }, NAMES[entry.who], ...(mark ? [make("span", { class: "mark", "aria-hidden": "true" }, mark)] : [])),
      entry.tool ? toolCall(entry.tool) : make("p", { class: "words" }, ...words(entry)),
      ...(entry.problem ? [make("p", { class: "problem" }, entry.problem)] : []),
    ]);
    this.#changed(atEnd);
  }

  /**
   * Part what follows from what went before.
   *
   * @param {string} text
   */
  divide(text) {
    this.lines.clear();
    if (!this.list.childElementCount) return;
    const atEnd = this.#isAtEnd();
    this.list.append(make("li", { class: "divider" }, text));
    this.#changed(atEnd);
  }

  /** Begin with nothing. */
  clear() {
    this.lines.clear();
    this.list.replaceChildren();
    this.#changed(true);
  }

  #forgetOldest() {
    while (this.list.childElementCount > MAX_LINES) this.list.firstElementChild?.remove();
  }

  #isAtEnd() {
    return this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 32;
  }

  /** @param {boolean} atEnd whether the reader stood at the end, and is to stay there */
  #changed(atEnd) {
    element("transcript-empty").hidden = this.list.childElementCount > 0;
    if (atEnd) this.list.scrollTop = this.list.scrollHeight;
  }
}

/**
 * Put these in place of what is in a line, but leave alone what is the same.
 *
 * @param {HTMLElement} line
 * @param {Node[]} parts
 */
function update(line, parts) {
  for (const [index, part] of parts.entries()) {
    const present = line.childNodes[index];
    if (!present) line.append(part);
    else if (!present.isEqualNode(part)) present.replaceWith(part);
  }
  while (line.childNodes.length > parts.length) line.lastChild?.remove();
}

/** @param {import("./conversation.js").Entry} entry */
function stateInWords({ who, state, isSpoken, heard }) {
  if (state === "failed") return "failed";
  if (who === "tool") return state === "open" ? "running" : "";
  if (who === "you") return { open: "speaking", interrupted: "not answered" }[/** @type {string} */ (state)] ?? "";
  if (state === "open" && isSpoken) return "preparing";
  if (state === "speaking") return "speaking";
  if (state === "interrupted") return heard === "" ? "interrupted before it was heard" : "interrupted";
  return "";
}

/**
 * What was said; sound whose words nobody knows by its length.
 *
 * @param {import("./conversation.js").Entry} entry
 * @returns {(Node | string)[]}
 */
function words({ text, heard, isSpoken, seconds, state }) {
  if (text && heard !== null && state === "interrupted" && text.startsWith(heard)) {
    const lost = text.slice(heard.length);
    return lost ? [heard, make("s", {}, lost)] : [text];
  }
  if (text) return [text];
  if (!isSpoken) return [];
  const length = seconds === null ? "" : `, ${seconds.toFixed(1)} s`;
  return [make("span", { class: "sound-only" }, icon("icon-speak"), state === "open" ? "…" : `Speech${length}`)];
}

/** @param {{name: string, args: string, output: string | null}} tool */
function toolCall({ name, args, output }) {
  return make(
    "div",
    { class: "call" },
    make("code", { class: "signature" }, make("b", {}, name), `(${plainArguments(args)})`),
    output === null ? make("p", { class: "result" }, "…") : make("p", { class: "result" }, output),
  );
}

/**
 * JSON arguments without the outermost braces, as people write calls; other text as it is.
 *
 * @param {string} args
 */
function plainArguments(args) {
  try {
    return Object.entries(JSON.parse(args || "{}"))
      .map(([name, value]) => `${name}: ${JSON.stringify(value)}`)
      .join(", ");
  } catch {
    return args;
  }
}
