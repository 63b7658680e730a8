/** Functions of this page that the agent may call. */

import { note } from "./activity-log.js";

/** Grounds the page can have; each is a hue that the style sheet mixes into the present colours. */
export const COLOURS = ["peach", "mint", "sky", "lilac", "plain"];

/**
 * @typedef {object} Tool
 * @property {string} description
 * @property {Record<string, unknown>} parameters JSON schema of the arguments
 * @property {(args: Record<string, unknown>) => string} run
 */

/** @type {Record<string, Tool>} */
const TOOLS = {
  get_time: {
    description: "Tell the time of day where the person is, or in another time zone.",
    parameters: {
      type: "object",
      properties: { time_zone: { type: "string", description: "IANA name such as Europe/Rome; leave out for the person's own" } },
    },
    run: ({ time_zone: timeZone }) => {
      const zone = typeof timeZone === "string" ? { timeZone } : {};
      return `It is ${new Date().toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...zone })}.`;
    },
  },
  set_background: {
    description: "Change the colour of the page around the avatar.",
    parameters: {
      type: "object",
      properties: { colour: { type: "string", enum: COLOURS } },
      required: ["colour"],
    },
    run: ({ colour }) => {
      if (!COLOURS.includes(String(colour))) throw new Error(`expected a colour of ${COLOURS.join(", ")}, found ${colour}`);
      document.documentElement.dataset.ground = String(colour);
      return `The background is ${colour} now.`;
    },
  },
};

/** The functions, as a conversation needs them. */
export class Tools {
  /** @returns {Record<string, unknown>[]} `tools` of a session */
  get descriptions() {
    return Object.entries(TOOLS).map(([name, { description, parameters }]) => ({ type: "function", name, description, parameters }));
  }

  /**
   * Run one; what goes wrong is an output, too, so that the agent can say so.
   *
   * @param {string} name
   * @param {string} args JSON
   * @returns {Promise<{output: string, isError: boolean}>}
   */
  async call(name, args) {
    try {
      const tool = Object.hasOwn(TOOLS, name) ? TOOLS[name] : undefined;
      if (!tool) throw new Error(`expected one of ${Object.keys(TOOLS).join(", ")}, found ${name}`);
      const output = tool.run(JSON.parse(args || "{}"));
      note(`The agent called ${name}.`);
      return { output, isError: false };
    } catch (error) {
      const message = /** @type {Error} */ (error).message;
      note(`${name} failed: ${message}`, { bad: true });
      return { output: `Error: ${message}`, isError: true };
    }
  }
}
