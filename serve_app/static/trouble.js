// An error as a person can use it: what happened, and the button for what to do about it.

import { node, say } from "./dom.js";
import { askForKey } from "./key.js";
import { KindError } from "./stream.js";

const WORTH_ANOTHER_TRY = new Set([0, 429, 500, 502, 503, 504]);
const DEFAULT_WAIT = 2; // seconds

export class Trouble {
  #words = node("p", { role: "alert" });
  #action = node("button", { type: "button", hidden: true });
  #timer = null;
  #onAction = () => {};

  constructor() {
    this.box = node("div", { className: "trouble", hidden: true }, this.#words, this.#action);
    this.#action.addEventListener("click", () => this.#onAction());
  }

  hide() {
    clearTimeout(this.#timer);
    this.box.hidden = true;
    this.#words.textContent = "";
  }

  /** Tell of an error; `again` is what would try once more, if a person can. */
  show(error, again = null) {
    clearTimeout(this.#timer);
    const { status = -1, retryAfter = null } = error;
    this.box.hidden = false;
    say(this.#words, error instanceof KindError ? error.message : `Something went wrong: ${error.message}`);
    this.#action.hidden = false;
    this.#action.disabled = false;
    if (status === 401) this.#offer("Enter a key", askForKey);
    else if (again && WORTH_ANOTHER_TRY.has(status)) this.#offerAfter(retryAfter ?? (status ? DEFAULT_WAIT : 0), again);
    else this.#action.hidden = true;
  }

  #offer(words, action) {
    this.#action.textContent = words;
    this.#onAction = action;
  }

  /** Count down what the server asks to wait. */
  #offerAfter(seconds, action) {
    this.#action.disabled = seconds > 0;
    this.#offer(seconds > 0 ? `Try again in ${seconds} s` : "Try again", action);
    if (seconds > 0) this.#timer = setTimeout(() => this.#offerAfter(seconds - 1, action), 1000);
  }
}
