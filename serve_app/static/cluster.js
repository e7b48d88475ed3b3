// The view for who runs the cluster: figures, charts, acceptance by position, workers.

import { workerOf } from "./account.js";
import { Chart } from "./chart.js";
import { element, node, say } from "./dom.js";
import { Trouble } from "./trouble.js";
import { duration, percent, rate } from "./words.js";
import { workerCards } from "./workers.js";

export class Cluster {
  #account;
  #trouble = new Trouble();
  #charts = [
    new Chart("Tokens/s", [{ name: "tokens/s", of: (sample) => sample.rate, className: "first" }], { format: rate }),
    new Chart("Accepted", [{ name: "accepted", of: (sample) => sample.acceptance, className: "first" }], { format: percent, max: 1 }),
    new Chart(
      "Sequences",
      [
        { name: "running", of: (sample) => sample.numRunning, className: "first" },
        { name: "waiting", of: (sample) => sample.numWaiting, className: "second" },
      ],
      { format: String },
    ),
    new Chart("KV blocks in use, fullest target", [{ name: "in use", of: (sample) => sample.kvUse, className: "first" }], { format: percent, max: 1 }),
  ];
  #figures = {};

  constructor(account) {
    this.#account = account;
    element("view-cluster").querySelector("h2").after(this.#trouble.box);
    element("charts").prepend(...this.#charts.map(({ figure }) => figure));
    for (const name of ["In flight", "Finished", "Failed", "Tokens written", "Draft length", "Router up for"]) {
      this.#figures[name] = node("dd", {});
      element("figures").append(node("div", {}, node("dt", {}, name), this.#figures[name]));
    }
    account.onLook(() => this.show());
  }

  show() {
    const { error, latest } = this.#account;
    element("view-cluster").classList.toggle("stale", error !== null);
    if (error) this.#trouble.show(error); // which asks again by itself
    else this.#trouble.hide();
    if (latest === null) return;
    const { status } = latest;
    const figures = {
      "In flight": status.num_requests,
      Finished: status.num_finished,
      Failed: status.num_failed,
      "Tokens written": status.num_generated_tokens,
      "Draft length": status.draft_length || "none",
      "Router up for": duration(1000 * status.uptime),
    };
    for (const [name, value] of Object.entries(figures)) {
      say(this.#figures[name], typeof value === "number" ? value.toLocaleString("en").replaceAll(",", "\u202f") : value);
    }
    for (const chart of this.#charts) chart.show(this.#account.samples);
    this.#showPositions(status);
    const workers = status.workers.map(workerOf);
    element("targets").replaceChildren(...workerCards(workers, "target"));
    element("drafts").replaceChildren(...workerCards(workers, "draft"));
  }

  /** How often a drafted token was accepted, by its place in the proposal: it is only if all before it were. */
  #showPositions({ num_drafts: numDrafts, num_accepted_tokens_per_pos: counts }) {
    const bars = counts.map((count, place) => {
      const share = numDrafts ? count / numDrafts : 0;
      const bar = node("i", {});
      bar.style.blockSize = `${100 * share}%`;
      return node("li", {}, node("b", {}, percent(share)), node("span", { className: "column-bar" }, bar), node("span", {}, String(place + 1)));
    });
    element("positions").replaceChildren(...(bars.length ? bars : [node("li", { className: "empty" }, "Nothing was drafted yet.")]));
  }
}
