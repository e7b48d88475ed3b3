// Server-sent events over fetch, and the errors that a person can do something about.

import { authorization } from "./key.js";

/**
 * An error whose message is meant to be read. `status` is the answer's, 0 where there was none or where it came in the
 * middle of a text; `retryAfter` the seconds that the server asks to wait.
 */
export class KindError extends Error {
  constructor(message, { status = 0, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const WORDS = {
  401: "This server asks for an API key.",
  404: "This is not served here.",
  413: "That is too long for this server.",
  429: "The cluster is busy.",
  503: "No model is ready yet.",
  504: "That took too long, so it was stopped.",
};

/** Post a JSON body and yield each event's parsed data until [DONE]. */
export async function* post(url, body, signal) {
  const response = await reach(url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new KindError(`The text broke off: ${chunk.error.message}`);
    yield chunk;
  }
  throw new KindError("The connection broke off before the text was finished.");
}

/** Get JSON. Throws KindError. */
export async function get(url) {
  const response = await reach(url, {});
  return response.json();
}

async function reach(url, options) {
  let response;
  try {
    response = await fetch(url, { ...options, headers: { ...options.headers, ...authorization() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new KindError("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await explain(response);
  return response;
}

async function explain(response) {
  const answer = await response.json().catch(() => null);
  const detail = answer?.error?.message ?? `${response.status} ${response.statusText}`;
  const words = WORDS[response.status];
  const seconds = Number.parseInt(response.headers.get("Retry-After"), 10);
  return new KindError(words ? `${words} (${detail})` : detail, {
    status: response.status,
    retryAfter: Number.isNaN(seconds) ? null : seconds,
  });
}

/** Data of each event: lines that begin with "data: ", however the bytes were cut on their way. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
