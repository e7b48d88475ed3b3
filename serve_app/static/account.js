// The router's account of the cluster (/status), asked for on a beat, and what it says over time.

import { get } from "./stream.js";

const FAST = 2000; // milliseconds between two looks while the cluster's view is shown
const SLOW = 5000;
const MAX_NUM_SAMPLES = 300;
const MIN_SECONDS = 1; // over which a rate is worth something, as workers report on a beat of their own
const SMOOTHED_SECONDS = 4; // over which rates are taken as soon as there are samples so far apart

/** All that a worker's entry leaves out where it is the default. */
export function workerOf({ info, stats = {}, is_alive: isAlive = true, is_draining: isDraining = false, ...rest }) {
  const { num_running = 0, num_waiting = 0, num_queued_tokens = 0, num_blocks = 0, num_free_blocks = 0 } = stats;
  return {
    info: { quantization: "none", dtype: "", devices: [], node: "", pid: 0, notes: [], ...info },
    isAlive,
    isDraining,
    numRequests: rest.num_requests ?? 0,
    lastReport: rest.last_report ?? 0,
    draftWait: rest.draft_wait_time ?? 0,
    numRunning: num_running,
    numWaiting: num_waiting,
    numQueuedTokens: num_queued_tokens,
    numSteps: stats.num_steps ?? 0,
    stepTime: stats.step_time ?? 0,
    kvUse: num_blocks ? 1 - num_free_blocks / num_blocks : 0,
    numBlocks: num_blocks,
  };
}

/** One moment on the charts. Rates are null before there are two moments, and across a router's restart. */
function sampleOf(status, earlier) {
  const targets = status.workers.map(workerOf).filter(({ info, isAlive }) => info.role === "target" && isAlive);
  const sum = (name) => targets.reduce((total, target) => total + target[name], 0);
  const seconds = earlier ? status.uptime - earlier.status.uptime : 0;
  const since = (name) => status[name] - earlier.status[name];
  const isRate = seconds >= MIN_SECONDS && since("num_generated_tokens") >= 0;
  const drafted = isRate ? since("num_draft_tokens") : 0;
  return {
    time: performance.now(),
    status,
    rate: isRate ? since("num_generated_tokens") / seconds : null,
    acceptance: drafted > 0 ? since("num_accepted_tokens") / drafted : null,
    numRunning: sum("numRunning"),
    numWaiting: sum("numWaiting"),
    kvUse: targets.length ? Math.max(...targets.map((target) => target.kvUse)) : null,
  };
}

export class Account {
  samples = [];
  model = "";
  error = null;
  #listeners = [];
  #timer = null;
  #interval = SLOW;
  #numAsked = 0;

  /** Be told after every look. */
  onLook(listener) {
    this.#listeners.push(listener);
  }

  /** Look often, or now and then. */
  setFast(isFast) {
    this.#interval = isFast ? FAST : SLOW;
    this.look();
  }

  get latest() {
    return this.samples.at(-1) ?? null;
  }

  /** Look now, and again after a while. */
  async look() {
    clearTimeout(this.#timer);
    if (!document.hidden) await this.#ask();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.look(), this.#interval);
  }

  async #ask() {
    this.#numAsked += 1;
    const number = this.#numAsked;
    const [models, status, error] = await ask();
    if (number !== this.#numAsked) return; // a newer question is on its way
    if (!error) {
      const isEarlier = (sample) => status.uptime - sample.status.uptime >= SMOOTHED_SECONDS;
      this.model = models.data[0]?.id ?? "";
      this.samples.push(sampleOf(status, this.samples.findLast(isEarlier) ?? this.samples[0]));
      if (this.samples.length > MAX_NUM_SAMPLES) this.samples.shift();
    }
    this.error = error;
    for (const listener of this.#listeners) listener(this);
  }
}

/** [models, status, null], or what went wrong in the third place. */
async function ask() {
  try {
    return [...(await Promise.all([get("/v1/models"), get("/status")])), null];
  } catch (error) {
    return [null, null, error];
  }
}
