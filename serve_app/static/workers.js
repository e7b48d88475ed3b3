// Targets and drafts, a card each: what they hold, where, and how they fare.

import { node } from "./dom.js";
import { duration, percent } from "./words.js";

const LATE = 5; // seconds of silence that are worth a word
const NUM_NODE_CHARS = 12; // of a node's id, which is long

function state({ isAlive, isDraining, lastReport }) {
  if (!isAlive) return ["gone", "gone"];
  if (isDraining) return ["waiting", "draining"];
  if (lastReport > LATE) return ["waiting", `silent for ${duration(lastReport * 1000)}`];
  return ["ready", "serving"];
}

/** "demo, nf4, bfloat16". */
const modelWords = ({ model, quantization, dtype }) =>
  [model, quantization === "none" ? "" : quantization, dtype].filter(Boolean).join(", ");

function bar(share, words) {
  const filled = node("i", {});
  filled.style.inlineSize = percent(share).replace(" ", "");
  return node("span", { className: "bar", role: "img", "aria-label": words }, filled);
}

function entry(name, ...value) {
  return node("div", {}, node("dt", {}, name), node("dd", {}, ...value));
}

function card(worker) {
  const { info } = worker;
  const [kind, words] = state(worker);
  const where = [info.node.slice(0, NUM_NODE_CHARS), info.pid ? `pid ${info.pid}` : ""].filter(Boolean).join(", ");
  const entries = [
    entry("Model", modelWords(info)),
    entry("Devices", info.devices.join(", ") || "–"),
    entry("Where", where || "–"),
    entry("Running", String(worker.numRunning)),
    entry("Waiting", String(worker.numWaiting)),
    entry("Tokens queued", String(worker.numQueuedTokens)),
    entry("KV blocks", worker.numBlocks ? percent(worker.kvUse) : "–", bar(worker.kvUse, "KV blocks in use")),
  ];
  if (worker.numSteps) entries.push(entry("A step", duration((1000 * worker.stepTime) / worker.numSteps)));
  if (worker.draftWait) entries.push(entry("Stood still for drafts", duration(1000 * worker.draftWait)));
  if (info.notes.length) entries.push(entry("Notes", info.notes.join("; ")));
  return node(
    "li",
    { className: `worker ${info.role}` },
    node("h4", {}, node("span", { className: "name" }, info.worker_id), node("span", { className: "state", "data-state": kind }, words)),
    node("dl", {}, ...entries),
  );
}

/** The cards of one role, in the order of their names. */
export function workerCards(workers, role) {
  const own = workers.filter(({ info }) => info.role === role);
  own.sort((one, other) => one.info.worker_id.localeCompare(other.info.worker_id));
  return own.length ? own.map(card) : [node("li", { className: "empty" }, `No ${role} is there.`)];
}
