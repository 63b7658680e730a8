/**
 * Cards that tell a person what stands in the way: over the picture when there is none, or at its foot.
 */

import { element, icon, make } from "./page.js";

/**
 * @typedef {object} Notice
 * @property {string} kind what it is about, for example "media"; a notice is withdrawn by its kind
 * @property {string} title
 * @property {string} why
 * @property {string[]} [remedies] what to do, one step each
 * @property {string[]} [pairs] candidate pairs that were tried
 * @property {{label: string, run: () => void}} [action]
 * @property {{label: string, submit: (value: string) => void}} [question] asks for one secret line of text
 */

/** The kind of the card that is over the picture. */
let shownKind = "";

/**
 * Show a card over the picture, instead of any other.
 *
 * @param {Notice} notice
 */
export function showNotice(notice) {
  const card = element("notice");
  shownKind = notice.kind;
  hideHint();
  card.dataset.kind = notice.kind;
  card.replaceChildren(make("h2", {}, notice.title), make("p", { class: "why" }, notice.why), ...parts(notice));
  card.hidden = false;
  card.querySelector("input")?.focus();
}

/**
 * Change the sentence of the card without announcing the whole again.
 *
 * @param {string} kind
 * @param {string} why
 */
export function updateNotice(kind, why) {
  const sentence = shownKind === kind ? document.querySelector("#notice .why") : null;
  if (sentence) sentence.textContent = why;
}

/**
 * Withdraw the card if it is one of these kinds.
 *
 * @param {...string} kinds
 */
export function withdrawNotice(...kinds) {
  if (!kinds.includes(shownKind)) return;
  shownKind = "";
  element("notice").hidden = true;
}

/**
 * Show a small card at the foot of the picture, which goes on; it can be put away.
 *
 * @param {string} title
 * @param {string} text
 */
export function showHint(title, text) {
  const card = element("hint");
  const dismiss = make("button", { type: "button", class: "dismiss", "aria-label": "Dismiss" }, icon("icon-close"));
  dismiss.onclick = hideHint;
  card.replaceChildren(make("h2", {}, title), make("p", {}, text), dismiss);
  card.hidden = false;
}

/** Put the small card away. */
export function hideHint() {
  element("hint").hidden = true;
}

/** @param {Notice} notice */
function parts({ remedies = [], pairs, action, question }) {
  const made = [];
  if (remedies.length) made.push(make("ul", {}, ...remedies.map((step) => make("li", {}, step))));
  if (pairs) made.push(pairList(pairs));
  if (question) made.push(questionForm(question));
  if (action) {
    const button = make("button", { type: "button", class: "action" }, action.label);
    button.onclick = action.run;
    made.push(make("div", { class: "actions" }, button));
  }
  return made;
}

/** @param {string[]} pairs */
function pairList(pairs) {
  const text = pairs.length ? pairs.join("\n") : "None: no address of this browser could be paired with one of the server's.";
  const summary = make("summary", {}, `Candidate pairs tried (${pairs.length})`);
  return make("details", {}, summary, make("pre", { tabindex: "0" }, text));
}

/** @param {{label: string, submit: (value: string) => void}} question */
function questionForm({ label, submit }) {
  const input = /** @type {HTMLInputElement} */ (
    make("input", { type: "password", id: "question", autocomplete: "current-password", required: "" })
  );
  const send = make("button", { type: "submit", class: "action" }, "Continue");
  const form = make("form", {}, make("label", { for: "question" }, label), input, make("div", { class: "actions" }, send));
  form.onsubmit = (event) => {
    event.preventDefault();
    submit(input.value.trim());
  };
  return form;
}
