// What is counted while text streams in: speed, acceptance, and the last rounds one by one.

import { node, say } from "./dom.js";
import { duration, percent, rate } from "./words.js";

const MAX_NUM_ROUNDS = 120;
const NAMES = { rate: "Tokens/s", acceptance: "Accepted", perStep: "Tokens a step", first: "First token", count: "Tokens" };

export class Meters {
  #values = {};
  #rounds = node("div", {
    className: "rounds",
    role: "img",
    "aria-label": "Rounds of drafting, a column each, filled for every accepted token",
  });

  constructor() {
    const entries = Object.entries(NAMES).map(([name, words]) => {
      this.#values[name] = node("dd", { className: name });
      return node("div", {}, node("dt", {}, words), this.#values[name]);
    });
    this.parts = [node("dl", { className: "meters" }, ...entries), this.#rounds];
    this.clear();
  }

  /** Begin anew, now. */
  clear() {
    this.begin = performance.now();
    this.first = null;
    this.last = null;
    this.numFirst = 0;
    this.numTokens = 0;
    this.numSteps = 0;
    this.numDrafted = 0;
    this.numAccepted = 0;
    this.#rounds.replaceChildren();
    for (const value of Object.values(this.#values)) value.textContent = "–";
  }

  /** Take in one step. */
  add({ tokens, numDrafted, numAccepted }) {
    this.last = performance.now();
    if (this.first === null && tokens.length) {
      this.first = this.last;
      this.numFirst = tokens.length;
    }
    this.numTokens += tokens.length;
    this.numSteps += tokens.length > 0;
    this.numDrafted += numDrafted;
    this.numAccepted += numAccepted;
    if (numDrafted) this.#addRound(numDrafted, numAccepted);
    this.#show();
  }

  /** Tokens a second from the first step on, which it leaves out; null before a second step. */
  get rate() {
    const seconds = (this.last - this.first) / 1000;
    return this.first !== null && seconds > 0 ? (this.numTokens - this.numFirst) / seconds : null;
  }

  /** "200 tokens in 2.6 s". */
  get words() {
    const time = this.last === null ? "" : ` in ${duration(this.last - this.begin)}`;
    return `${this.numTokens} token${this.numTokens === 1 ? "" : "s"}${time}`;
  }

  #show() {
    const { rate: speed, acceptance, perStep, first, count } = this.#values;
    say(speed, this.rate === null ? "–" : rate(this.rate));
    say(acceptance, this.numDrafted ? percent(this.numAccepted / this.numDrafted) : "–");
    say(perStep, this.numSteps ? (this.numTokens / this.numSteps).toFixed(2) : "–");
    say(first, this.first === null ? "–" : duration(this.first - this.begin));
    say(count, String(this.numTokens));
  }

  #addRound(numDrafted, numAccepted) {
    const cells = Array.from({ length: numDrafted }, (_, place) => node("i", { className: place < numAccepted ? "hit" : "" }));
    this.#rounds.append(node("span", {}, ...cells));
    if (this.#rounds.childElementCount > MAX_NUM_ROUNDS) this.#rounds.firstElementChild.remove();
    this.#rounds.scrollLeft = this.#rounds.scrollWidth;
  }
}
