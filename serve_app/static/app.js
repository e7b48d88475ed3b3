// The playground: a form, a stream, and text coloured by who wrote it. Text reaches the page as text nodes only.

import { Meters, duration } from "./meters.js";
import { KindError, get, post } from "./stream.js";

const STATUS_INTERVAL = 4000;
const REASONS = { stop: "the model ended the text", length: "the limit was reached", abort: "it was taken back" };

const element = (id) => document.getElementById(id);
const form = element("form");
const text = element("text");
let running = null;

function request() {
  const body = {
    prompt: element("prompt").value,
    temperature: element("temperature").valueAsNumber,
    top_p: element("top-p").valueAsNumber,
    max_tokens: element("max-tokens").valueAsNumber,
    seed: element("seed").value === "" ? Math.floor(Math.random() * 2 ** 32) : element("seed").valueAsNumber,
    stream: true,
    return_token_ids: true,
  };
  const length = element("length").valueAsNumber;
  if (!element("drafting").checked) body.num_assistant_tokens = 0;
  else if (length) body.num_assistant_tokens = length;
  return body;
}

async function write() {
  running?.abort();
  const own = new AbortController();
  running = own;
  const body = request();
  const meters = new Meters();
  begin(body);
  let reason = null;
  try {
    for await (const { choices } of post("/v1/completions", body, own.signal)) {
      for (const choice of choices) {
        add(choice.slipstream.segments);
        meters.add(choice.token_ids.length, choice.slipstream.num_drafted, choice.slipstream.num_accepted);
        reason = choice.finish_reason ?? reason;
      }
      meters.show();
    }
    end(body, meters, REASONS[reason] ?? "done");
  } catch (error) {
    if (running !== own) return; // a newer text has begun
    if (error.name === "AbortError") end(body, meters, "you stopped it");
    else fail(error);
  } finally {
    if (running === own) idle();
  }
}

function begin(body) {
  const prompt = document.createElement("span");
  prompt.className = "prompt";
  prompt.textContent = body.prompt;
  text.replaceChildren(prompt);
  text.setAttribute("aria-busy", "true");
  element("error").hidden = true;
  element("note").textContent = "Writing…";
  element("write").textContent = "Write anew";
  element("stop").disabled = false;
}

/** Append text to the last span where it has the same author, so that a long text stays a short list of nodes. */
function add(segments) {
  const isAtEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
  for (const [piece, isDrafted] of segments) {
    const author = isDrafted ? "drafted" : "own";
    const last = text.lastElementChild;
    if (last.className === author) {
      last.append(piece);
    } else {
      const span = document.createElement("span");
      span.className = author;
      span.textContent = piece;
      text.append(span);
    }
  }
  if (isAtEnd) text.scrollTop = text.scrollHeight;
}

function end(body, meters, reason) {
  const time = meters.last === null ? "" : ` in ${duration(meters.last - meters.begin)}`;
  element("note").textContent = `${meters.numTokens} tokens${time}; ${reason}. Seed ${body.seed}.`;
}

function fail(error) {
  element("error").textContent = error instanceof KindError ? error.message : `Something went wrong: ${error.message}`;
  element("error").hidden = false;
  element("note").textContent = "";
}

function idle() {
  running = null;
  text.setAttribute("aria-busy", "false");
  element("write").textContent = "Write";
  element("stop").disabled = true;
}

function count(workers, role) {
  const number = workers.filter((worker) => worker.info.role === role && worker.is_alive !== false).length;
  return `${number} ${role}${number === 1 ? "" : "s"}`;
}

async function showCluster() {
  if (!document.hidden) {
    const [models, status] = await Promise.all([get("/v1/models"), get("/status")]);
    const cluster = element("cluster");
    const model = models?.data[0]?.id;
    const state = models === null ? "gone" : model && status ? "ready" : "waiting";
    const words = {
      gone: () => "The server does not answer",
      waiting: () => "The model is loading…",
      ready: () => `${model} · ${count(status.workers, "target")} · ${count(status.workers, "draft")}`,
    }[state]();
    if (cluster.textContent !== words) cluster.textContent = words;
    cluster.dataset.state = state;
  }
  setTimeout(showCluster, STATUS_INTERVAL);
}

function showValues() {
  element("temperature-value").textContent = element("temperature").valueAsNumber.toFixed(2);
  element("top-p-value").textContent = element("top-p").valueAsNumber.toFixed(2);
  const length = element("length");
  length.disabled = !element("drafting").checked;
  element("length-value").textContent = length.disabled ? "off" : length.valueAsNumber || "auto";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
form.addEventListener("input", showValues);
element("stop").addEventListener("click", () => running?.abort());
element("origins").addEventListener("change", (event) => text.classList.toggle("plain", !event.target.checked));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    form.requestSubmit();
  }
});
const prompt = element("prompt");
prompt.setSelectionRange(prompt.value.length, prompt.value.length); // who begins to type goes on with the text
showValues();
showCluster();
