// The view that writes one text twice, with and without drafting: the same text, sooner.

import { element, node, say } from "./dom.js";
import { Job } from "./job.js";
import { Pane } from "./pane.js";
import { draftLength, sampling } from "./settings.js";
import { Trouble } from "./trouble.js";
import { duration } from "./words.js";

/** Where two texts part, in characters; null where they are the same. */
export function parting(one, other) {
  const [left, right] = [[...one], [...other]];
  const length = Math.max(left.length, right.length);
  for (let place = 0; place < length; place += 1) if (left[place] !== right[place]) return place;
  return null;
}

export class Compare {
  #trouble = new Trouble();
  #job;
  #verdict = element("verdict");
  #note = node("p", { className: "note", role: "status" });

  constructor(onBusy) {
    this.with = this.#column("With drafting", "");
    this.without = this.#column("Without drafting", "plain");
    element("columns").before(this.#trouble.box);
    element("columns").after(this.#note);
    this.#job = new Job({
      note: this.#note,
      trouble: this.#trouble,
      onBusy: (isBusy) => {
        for (const pane of [this.with, this.without]) pane.setBusy(false);
        onBusy(isBusy);
      },
    });
  }

  start() {
    const fields = sampling();
    if (fields === null) return;
    const body = { prompt: element("prompt").value, ...fields };
    delete body.num_assistant_tokens;
    const length = draftLength();
    const drafted = length ? { ...body, num_assistant_tokens: length } : body;
    const plain = { ...body, num_assistant_tokens: 0 };
    const isRace = element("race").checked;
    this.#verdict.hidden = true;
    this.without.text.clear();
    this.without.meters.clear();
    this.#job.run(
      async (signal) => {
        const first = this.#write(this.with, drafted, signal);
        if (!isRace) await first;
        await Promise.all([first, this.#write(this.without, plain, signal)]);
        this.#judge(isRace);
        return `Both with seed ${body.seed}.`;
      },
      () => "You stopped it.",
    );
  }

  stop() {
    return this.#job.stop();
  }

  #column(words, kind) {
    const place = node("section", { className: `column ${kind}`, "aria-label": words }, node("h2", {}, words));
    element("columns").append(place);
    return new Pane(place, `Text ${words.toLowerCase()}`);
  }

  async #write(pane, body, signal) {
    pane.setBusy(true);
    await pane.write(body, signal);
    pane.setBusy(false);
  }

  #judge(isRace) {
    const place = parting(this.with.text.text, this.without.text.text);
    const [fast, slow] = [this.with.meters, this.without.meters];
    const ratio = fast.rate && slow.rate ? fast.rate / slow.rate : null;
    const speed = ratio === null ? "" : `${ratio.toFixed(2)}× the tokens a second`;
    const times = `${duration(fast.last - fast.begin)} instead of ${duration(slow.last - slow.begin)}`;
    this.#verdict.hidden = false;
    this.#verdict.dataset.same = place === null;
    say(element("verdict-text"), place === null ? "The texts are identical." : `The texts part behind ${place} characters.`);
    say(element("verdict-speed"), [speed, times].filter(Boolean).join(", ") + ".");
    say(element("verdict-why"), place === null ? "" : WHY_PARTED);
    if (place !== null) for (const pane of [this.with, this.without]) pane.text.mark(place);
    element("verdict-fair").hidden = !isRace;
  }
}

const WHY_PARTED =
  "Kernels that round by the shape of a batch can tip a near tie between two tokens; in full precision this does not happen.";
