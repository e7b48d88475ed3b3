// One piece of work at a time of a view: it begins, can be stopped, ends or fails.

import { say } from "./dom.js";
import { post } from "./stream.js";
import { steps } from "./steps.js";

export const REASONS = {
  stop: "the model ended the text",
  length: "the limit was reached",
  abort: "it was taken back",
  stopped: "you stopped it",
};

export class Job {
  #running = null;

  /** `onBusy(isBusy)` is told when work begins and when nothing runs any more. */
  constructor({ note, trouble, onBusy }) {
    this.note = note;
    this.trouble = trouble;
    this.onBusy = onBusy;
  }

  get isRunning() {
    return this.#running !== null;
  }

  /** Take back what runs; true if something did. */
  stop() {
    this.#running?.abort();
    return this.#running !== null;
  }

  /** Do `work(signal)`, in place of what runs. It gives words for the note, and so does `onStopped()`. */
  async run(work, onStopped) {
    this.stop();
    const own = new AbortController();
    this.#running = own;
    this.trouble.hide();
    say(this.note, "Writing…");
    this.onBusy(true);
    try {
      const words = await work(own.signal);
      if (this.#running === own) say(this.note, words);
    } catch (error) {
      if (this.#running !== own) return; // newer work has begun
      say(this.note, error.name === "AbortError" ? onStopped() : "");
      if (error.name !== "AbortError") this.trouble.show(error, () => this.run(work, onStopped));
    } finally {
      own.abort(); // whatever of it may still run
      if (this.#running === own) {
        this.#running = null;
        this.onBusy(false);
      }
    }
  }
}

/** Stream one answer into its text and meters; gives why it ended, as a word of REASONS. */
export async function follow(url, body, { text, meters }, signal) {
  let reason = null;
  meters.clear();
  for await (const chunk of post(url, body, signal)) {
    signal.throwIfAborted();
    for (const step of steps(chunk)) {
      text.add(step);
      if (step.tokens.length) meters.add(step);
      reason = step.reason ?? reason;
    }
  }
  return reason;
}
