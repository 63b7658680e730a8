/** Shows the media of a call, whichever way it was made: the picture, its figures, and what is wrong with it. */

import { note } from "./activity-log.js";
import { diagnose } from "./diagnosis.js";
import { on } from "./events.js";
import { showNotice, withdrawNotice } from "./notices.js";
import { showFigures, showLight } from "./status-panel.js";

const LOCAL_HOSTS = ["localhost", "127.0.0.1", "[::1]"];

const ICE_WORDS = { new: "not started", connecting: "finding a path", disconnected: "path is silent", closed: "closed" };

/** Events: `change` {} when the way may have to say something else about itself. */
export class MediaView extends EventTarget {
  /**
   * @param {import("./call.js").Call<any>} call
   * @param {import("./stage.js").Stage} stage
   * @param {() => number} wantedFps
   */
  constructor(call, stage, wantedFps) {
    super();
    this.call = call;
    this.stage = stage;
    this.wantedFps = wantedFps;
    /** @type {import("./stats.js").MediaFigures | null} */
    this.figures = null;
    on(call, "stream", ({ stream }) => stage.play(stream));
    on(call, "ice", () => this.show());
    on(call, "media", ({ state }) => this.#media(state));
    on(call, "figures", (figures) => this.#measured(figures));
    on(call, "trouble", (trouble) => this.#trouble(trouble));
    on(stage, "picture", () => call.sawPicture());
    on(stage, "sound", () => call.peer && this.show());
  }

  /** Show the lights of ICE and media. */
  show() {
    const { call, figures } = this;
    if (call.ice === "connected") showLight("ice", figures?.route ?? "connected", "good");
    else if (call.ice === "failed") showLight("ice", "no path", "bad");
    else showLight("ice", ICE_WORDS[call.ice], call.ice === "new" || call.ice === "closed" ? "idle" : "wait");

    const sound = this.stage.video.muted ? "muted" : "sound on";
    if (call.media === "playing") showLight("media", `playing, ${sound}`, "good");
    else if (call.media === "stalled") showLight("media", "stopped", "bad");
    else if (call.media === "waiting") showLight("media", "waiting", "wait");
    else showLight("media", "none", call.ice === "failed" ? "bad" : "idle");
    this.dispatchEvent(new Event("change"));
  }

  /** @param {import("./call.js").MediaState} state */
  #media(state) {
    if (state === "playing") {
      withdrawNotice("media");
      this.stage.revive();
      note("The picture is here.");
    } else {
      if (state === "stalled") this.stage.fade();
      else this.stage.clear();
      this.figures = null;
      showFigures(null, this.wantedFps());
    }
    if (state === "stalled") note("The picture has stopped; waiting for it.", { bad: true });
    this.show();
  }

  /** @param {import("./stats.js").MediaFigures} figures */
  #measured(figures) {
    this.figures = figures;
    showFigures(figures, this.wantedFps());
    this.show();
  }

  /** @param {import("./call.js").Trouble} trouble */
  #trouble(trouble) {
    const { call } = this;
    const diagnosis = diagnose({
      ...trouble,
      hasTurn: call.hasTurn,
      isLocalhost: LOCAL_HOSTS.includes(location.hostname),
      isSecure: window.isSecureContext,
    });
    note(`${diagnosis.title}. ${diagnosis.why}`, { bad: true });
    showNotice({
      ...diagnosis,
      kind: "media",
      pairs: trouble.pairs,
      action: { label: "Try again", run: () => (withdrawNotice("media"), call.renew()) },
    });
  }
}
