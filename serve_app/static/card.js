// What is known of one token: who wrote it, how likely it was, and what else was likely there.

import { element, node, say } from "./dom.js";
import { plural, probability, visible } from "./words.js";

const GAP = 8;
let shown = null;

/** Show the card beside a span. `isSpoken` tells it to people who listen, too. */
export function showCard(span, tokens, isSpoken) {
  if (shown !== span) {
    shown?.classList.remove("looked-at");
    span.classList.add("looked-at");
    shown = span;
    fill(span, tokens);
  }
  place(span);
  if (isSpoken) say(element("spoken"), summary(span, tokens));
}

/** Take the card away. */
export function hideCard() {
  shown?.classList.remove("looked-at");
  shown = null;
  element("card").hidden = true;
}

/** Keep the card beside its token while things move; away with it where the token is out of sight. */
export function moveCard() {
  if (shown === null) return;
  const word = shown.getBoundingClientRect();
  const frame = shown.parentElement.getBoundingClientRect();
  if (word.bottom < Math.max(frame.top, 0) || word.top > Math.min(frame.bottom, innerHeight)) hideCard();
  else place(shown);
}

const author = (token) => (token.isDrafted ? "drafted, and accepted" : "the target’s own");

function summary(span, tokens) {
  const token = tokens.at(-1);
  const likely = token.logprob === null ? "" : `, ${probability(Math.exp(token.logprob))}`;
  return `${visible(span.textContent)}: ${author(token)}${likely}`;
}

function fill(span, tokens) {
  const token = tokens.at(-1);
  const ids = tokens.length > 1 ? `the last of ${plural(tokens.length, "token")}` : `token ${token.id}`;
  const parts = [
    node("p", { className: "card-head" }, node("b", {}, visible(span.textContent)), node("span", {}, ids)),
    node("p", { className: token.isDrafted ? "by-draft" : "by-target" }, author(token)),
  ];
  if (token.logprob !== null) {
    const share = node("b", {}, probability(Math.exp(token.logprob)));
    parts.push(node("p", {}, share, node("span", {}, ` log-probability ${token.logprob.toFixed(3)}`)));
  }
  if (token.top?.length) parts.push(alternatives(token.top));
  element("card").replaceChildren(...parts);
}

function alternatives(top) {
  const rows = top.map(([text, logprob]) => {
    const share = Math.exp(logprob);
    const bar = node("i", {});
    bar.style.inlineSize = `${100 * share}%`;
    return node("li", {}, node("span", {}, visible(text)), node("span", { className: "bar" }, bar), node("span", {}, probability(share)));
  });
  return node("ol", { "aria-label": "The most likely tokens here" }, ...rows);
}

function place(span) {
  const card = element("card");
  card.hidden = false;
  const word = span.getClientRects()[0] ?? span.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = card;
  const isBelow = word.bottom + GAP + height <= innerHeight || word.top - GAP - height < 0;
  card.style.left = `${Math.max(GAP, Math.min(word.left, document.documentElement.clientWidth - width - GAP))}px`;
  card.style.top = `${isBelow ? word.bottom + GAP : word.top - GAP - height}px`;
}
