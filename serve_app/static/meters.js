// What is counted while text streams in: speed, acceptance, and the last rounds one by one.

const MAX_NUM_ROUNDS = 120;

const element = (id) => document.getElementById(id);
const percent = (part, whole) => `${Math.round((100 * part) / whole)} %`;

/** Time as people read it. */
export function duration(ms) {
  return ms < 995 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;
}

export class Meters {
  constructor() {
    this.begin = performance.now();
    this.first = null;
    this.last = null;
    this.numFirst = 0;
    this.numTokens = 0;
    this.numSteps = 0;
    this.numDrafted = 0;
    this.numAccepted = 0;
    element("rounds").replaceChildren();
    for (const id of ["rate", "acceptance", "per-step", "first", "count"]) element(id).textContent = "–";
  }

  /** Take in one step's tokens. */
  add(numTokens, numDrafted, numAccepted) {
    this.last = performance.now();
    if (this.first === null && numTokens) {
      this.first = this.last;
      this.numFirst = numTokens;
    }
    this.numTokens += numTokens;
    this.numSteps += numTokens > 0;
    this.numDrafted += numDrafted;
    this.numAccepted += numAccepted;
    if (numDrafted) this.#addRound(numDrafted, numAccepted);
  }

  /** Tokens a second from the first step on, which it leaves out; null before a second step. */
  get rate() {
    const seconds = (this.last - this.first) / 1000;
    return this.first !== null && seconds > 0 ? (this.numTokens - this.numFirst) / seconds : null;
  }

  show() {
    const rate = this.rate;
    element("rate").textContent = rate === null ? "–" : rate < 100 ? rate.toFixed(1) : Math.round(rate);
    element("acceptance").textContent = this.numDrafted ? percent(this.numAccepted, this.numDrafted) : "–";
    element("per-step").textContent = this.numSteps ? (this.numTokens / this.numSteps).toFixed(2) : "–";
    element("first").textContent = this.first === null ? "–" : duration(this.first - this.begin);
    element("count").textContent = this.numTokens;
  }

  #addRound(numDrafted, numAccepted) {
    const column = document.createElement("span");
    for (let place = 0; place < numDrafted; place += 1) {
      const cell = document.createElement("i");
      if (place < numAccepted) cell.className = "hit";
      column.append(cell);
    }
    const rounds = element("rounds");
    rounds.append(column);
    if (rounds.childElementCount > MAX_NUM_ROUNDS) rounds.firstElementChild.remove();
    rounds.scrollLeft = rounds.scrollWidth;
  }
}
