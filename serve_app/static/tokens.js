// Text as the tokens that make it: a span each, coloured by who wrote it or by how likely it was.

import { node } from "./dom.js";
import { hideCard, showCard } from "./card.js";

const LIKELY = [0.05, 0.2, 0.5, 0.8]; // bounds between the five steps of likelihood
const facts = new WeakMap(); // span to the tokens whose text it shows

/** The tokens that a span shows: one, or the last of several that only together make a character. */
export const tokensOf = (span) => facts.get(span);

export class TokenText {
  #letters = []; // of the text so far; the server counts in characters, not in UTF-16 units
  #tokens = [];
  #spans = []; // of each token; null until it has text
  #numDone = 0; // tokens whose text is complete
  #cursor = -1; // index among the spans on the page

  /** `place` becomes a stop for the Tab key, in which the arrow keys go from token to token. */
  constructor(place, label) {
    this.place = place;
    place.classList.add("tokens");
    place.tabIndex = 0;
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", label);
    place.addEventListener("keydown", (event) => this.#onKey(event));
    place.addEventListener("focus", () => place.matches(":focus-visible") && this.#move(Math.max(this.#cursor, 0), false));
    place.addEventListener("blur", hideCard);
    place.addEventListener("pointerover", (event) => event.pointerType === "mouse" && this.#point(event.target));
    place.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hideCard());
    place.addEventListener("click", (event) => this.#point(event.target));
  }

  get text() {
    return this.#letters.join("");
  }

  get numTokens() {
    return this.#tokens.length;
  }

  /** Begin anew, behind a prompt that is shown too. */
  clear(prompt = "") {
    hideCard();
    [this.#letters, this.#tokens, this.#spans, this.#numDone, this.#cursor] = [[], [], [], 0, -1];
    this.place.replaceChildren(...(prompt ? [node("span", { className: "prompt" }, prompt)] : []));
  }

  /** Take in a step. A character may come later than the first of its tokens, and text later than its token. */
  add({ text, tokens }) {
    this.#letters.push(...text);
    this.#tokens.push(...tokens);
    for (let index = this.#numDone; index < this.#tokens.length; index += 1) {
      const end = this.#tokens[index + 1]?.offset ?? this.#letters.length;
      this.#show(index, this.#letters.slice(this.#tokens[index].offset, end).join(""));
      if (index === this.#numDone && index + 1 < this.#tokens.length && end <= this.#letters.length) this.#numDone += 1;
    }
  }

  /** Mark where this text and another part, and bring the place into view. */
  mark(numLetters) {
    const index = this.#tokens.findLastIndex((token, place) => token.offset <= numLetters && this.#spans[place]);
    this.#spans[index]?.classList.add("differs");
    this.#spans[index]?.scrollIntoView({ block: "nearest" });
  }

  #show(index, text) {
    if (!text) return;
    this.#spans[index] ??= this.#makeSpan(index);
    if (this.#spans[index].textContent !== text) this.#spans[index].textContent = text;
  }

  #makeSpan(index) {
    const token = this.#tokens[index];
    const span = node("span", { className: `token ${token.isDrafted ? "drafted" : "own"}` });
    if (token.logprob !== null) {
      span.classList.add(`likely-${LIKELY.filter((bound) => Math.exp(token.logprob) >= bound).length}`);
    }
    let first = index;
    while (first > 0 && !this.#spans[first - 1]) first -= 1;
    facts.set(span, this.#tokens.slice(first, index + 1));
    this.place.append(span);
    return span;
  }

  #onKey(event) {
    const last = this.place.querySelectorAll(".token").length - 1;
    const to = { ArrowRight: this.#cursor + 1, ArrowLeft: this.#cursor - 1, Home: 0, End: last }[event.key];
    if (to === undefined || last < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.#move(Math.min(Math.max(to, 0), last), true);
  }

  #move(index, isSpoken) {
    const span = this.place.querySelectorAll(".token")[index];
    if (!span) return;
    this.#cursor = index;
    span.scrollIntoView({ block: "nearest" });
    showCard(span, tokensOf(span), isSpoken);
  }

  #point(target) {
    const span = target.closest(".token");
    if (!span) return hideCard();
    this.#cursor = [...this.place.querySelectorAll(".token")].indexOf(span);
    showCard(span, tokensOf(span), false);
  }
}
