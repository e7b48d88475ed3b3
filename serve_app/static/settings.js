// How to answer: the form's controls as fields of a request.

import { element, say } from "./dom.js";
import { currentView, onView } from "./views.js";

const form = element("settings");
const number = (name) => form.elements[name].valueAsNumber;
const NEUTRAL = { top_k: 0, min_p: 0, repetition_penalty: 1, presence_penalty: 0, frequency_penalty: 0 };
const SLIDERS = ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"];
const NUM_SEEDS = 2 ** 32;

/** What all requests say; what is at rest is left to the server. Null where a value is out of bounds, which is shown. */
export function sampling() {
  if (!isValid()) return null;
  const body = {
    temperature: number("temperature"),
    top_p: number("top_p"),
    max_tokens: number("max_tokens"),
    seed: form.elements.seed.value === "" ? Math.floor(Math.random() * NUM_SEEDS) : number("seed"),
    stream: true,
    return_token_ids: true,
  };
  for (const [name, rest] of Object.entries(NEUTRAL)) if (number(name) !== rest) body[name] = number(name);
  if (stops().length) body.stop = stops();
  const length = number("num_assistant_tokens");
  if (!form.elements.drafting.checked) body.num_assistant_tokens = 0;
  else if (length) body.num_assistant_tokens = length;
  return body;
}

/** How many alternatives each token is to come with. */
export const numAlternatives = () => number("alternatives");

/** The draft length that is pinned; undefined where the cluster chooses. */
export const draftLength = () => number("num_assistant_tokens") || undefined;

/** Use this seed from now on. */
export function keepSeed(seed) {
  form.elements.seed.value = seed;
}

/** Stop strings, one a line; a backslash and n stand for a line break within one. */
function stops() {
  const lines = form.elements.stop.value.split("\n").filter((line) => line !== "");
  return lines.map((line) => line.replaceAll("\\n", "\n"));
}

function isValid() {
  const wrong = form.querySelector("input:invalid");
  wrong?.closest("details")?.setAttribute("open", "");
  return wrong ? form.reportValidity() : true;
}

function showValues() {
  for (const name of SLIDERS) say(form.elements[name].parentElement.querySelector("output"), number(name).toFixed(2));
  const length = form.elements.num_assistant_tokens;
  length.disabled = !form.elements.drafting.checked && currentView() !== "compare";
  say(length.parentElement.querySelector("output"), length.disabled ? "off" : String(length.valueAsNumber || "auto"));
  element("main").dataset.colours = form.elements.colours.value;
}

/** Wire up the form. */
export function initSettings() {
  form.addEventListener("input", showValues);
  form.addEventListener("submit", (event) => event.preventDefault());
  onView(showValues);
}
