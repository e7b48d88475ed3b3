// Server-sent events over fetch, and the errors that a person can do something about.

/** An error whose message is meant to be read. */
export class KindError extends Error {}

const WORDS = {
  404: "This model is not served here.",
  413: "That is too long for this server.",
  429: "The cluster is busy. Try again in a moment.",
  503: "No model is ready yet. Try again in a moment.",
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
  if (!response.ok) throw new KindError(await explain(response));
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new KindError(chunk.error.message);
    yield chunk;
  }
  throw new KindError("The connection broke off before the text was finished.");
}

/** Get JSON, or null where the server does not answer with any. */
export async function get(url) {
  try {
    const response = await fetch(url);
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

async function reach(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new KindError("The server cannot be reached. Is it still running?");
  }
}

async function explain(response) {
  const answer = await response.json().catch(() => null);
  const detail = answer?.error?.message ?? `${response.status} ${response.statusText}`;
  const words = WORDS[response.status];
  return words ? `${words} (${detail})` : detail;
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
