// A small line chart: one or two lines over a few minutes, the newest moment at the right.

import { node, say, svg } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 84;
const SPANS = [1, 2, 5, 10]; // minutes that the chart may be wide: the fewest that hold all, or the most
const LONGEST_GAP = 15e3; // beyond which a line is broken

/** The least of 1, 2, 5, 10, 20, … that holds a value. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((step) => step * power).find((bound) => bound >= value);
}

export class Chart {
  #lines;
  #paths;
  #value = node("span", { className: "value" });
  #top = node("span", { className: "top" });
  #since = node("span", {});
  #drawing;

  /** `lines` are `{ name, of, className }`, `of` taking a sample to its value or null; `format` makes words of it. */
  constructor(title, lines, { format, max = null }) {
    this.#lines = lines;
    this.title = title;
    this.format = format;
    this.max = max;
    this.#paths = lines.map(({ className }) => svg("path", { class: `line ${className}` }));
    const grid = [0.25, 0.5, 0.75].map((share) => svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: share * HEIGHT, y2: share * HEIGHT }));
    this.#drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }, ...grid, ...this.#paths);
    const key = lines.length > 1 ? lines.map(({ name, className }) => node("span", { className: `key ${className}` }, name)) : [];
    this.figure = node(
      "figure",
      { className: "chart" },
      node("figcaption", {}, node("span", {}, title), ...key, this.#value),
      node(
        "div",
        { className: "plot" },
        this.#top,
        this.#drawing,
        node("div", { className: "span" }, this.#since, node("span", {}, "now")),
      ),
    );
  }

  show(samples) {
    const now = samples.at(-1)?.time ?? 0;
    const age = now - (samples[0]?.time ?? now);
    const span = 60e3 * (SPANS.find((minutes) => age <= 60e3 * minutes) ?? SPANS.at(-1));
    const recent = samples.filter(({ time }) => now - time <= span);
    const values = recent.flatMap((sample) => this.#lines.map(({ of }) => of(sample) ?? 0));
    const max = this.max ?? ceiling(Math.max(1, ...values));
    this.#lines.forEach(({ of }, place) => this.#paths[place].setAttribute("d", path(recent, of, { now, span, max })));
    const words = this.#lines.map(({ of }) => this.#words(samples.at(-1), of)).join(" / ");
    say(this.#value, words);
    say(this.#top, this.format(max));
    say(this.#since, `${span / 60e3} min ago`);
    this.#drawing.setAttribute("aria-label", `${this.title} over the last ${span / 60e3} min, now ${words}`);
  }

  #words(sample, of) {
    const value = sample ? of(sample) : null;
    return value === null ? "–" : this.format(value);
  }
}

function path(samples, of, { now, span, max }) {
  let last = null;
  const parts = [];
  for (const sample of samples) {
    const value = of(sample);
    if (value === null) {
      last = null;
      continue;
    }
    const x = WIDTH * (1 - (now - sample.time) / span);
    const y = HEIGHT - 2 - (HEIGHT - 4) * Math.min(value / max, 1);
    parts.push(`${last !== null && sample.time - last < LONGEST_GAP ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`);
    last = sample.time;
  }
  return parts.join("");
}
