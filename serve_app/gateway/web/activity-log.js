/** What happened, in plain words, newest last. */

import { element, make } from "./page.js";

/** Older lines go. */
const MAX_LINES = 200;

/**
 * Add a line, and show it if the reader stands at the end.
 *
 * @param {string} text
 * @param {{bad?: boolean, link?: {href: string, label: string}}} [options]
 */
export function note(text, { bad = false, link } = {}) {
  const list = element("log");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 24;
  const now = new Date();
  const time = make("time", { datetime: now.toISOString() }, now.toLocaleTimeString([], { hour12: false }));
  const words = make("span", {}, text);
  if (link) words.append(" ", make("a", { href: link.href, download: "" }, link.label));
  list.append(make("li", bad ? { class: "bad" } : {}, time, words));
  while (list.childElementCount > MAX_LINES) list.firstElementChild?.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}
