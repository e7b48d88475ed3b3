// The view that goes on with a text.

import { element, node } from "./dom.js";
import { Job, REASONS } from "./job.js";
import { Pane } from "./pane.js";
import { keepSeed, numAlternatives, sampling } from "./settings.js";
import { Trouble } from "./trouble.js";

export class Complete {
  #trouble = new Trouble();
  #job;

  constructor(onBusy) {
    const place = element("view-complete");
    place.append(this.#trouble.box);
    this.pane = new Pane(place, "Text");
    const note = node("span", { role: "status" });
    this.keep = node("button", { type: "button", className: "quiet", hidden: true }, "Keep this seed");
    this.keep.addEventListener("click", () => keepSeed(this.seed));
    place.append(node("p", { className: "note" }, note, this.keep));
    this.#job = new Job({
      note,
      trouble: this.#trouble,
      onBusy: (isBusy) => {
        this.pane.setBusy(isBusy);
        this.keep.hidden = isBusy || note.textContent === "";
        onBusy(isBusy);
      },
    });
  }

  start() {
    const fields = sampling();
    if (fields === null) return;
    const body = { prompt: element("prompt").value, logprobs: numAlternatives(), ...fields };
    this.seed = body.seed;
    const ending = (reason) => `${this.pane.meters.words}; ${REASONS[reason] ?? "done"}. Seed ${body.seed}.`;
    this.#job.run(async (signal) => ending(await this.pane.write(body, signal)), () => ending("stopped"));
  }

  stop() {
    return this.#job.stop();
  }
}
