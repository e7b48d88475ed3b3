// What one event of a stream brought, the same for completions and chats.

/**
 * The steps of a chunk, one a choice:
 * `{ text, tokens, numDrafted, numAccepted, reason }`, each token `{ id, isDrafted, offset, logprob, top }`.
 * `offset` is where in the answer the token's text begins, in characters; `top` are (text, log-probability) pairs, best
 * first; `logprob` and `top` are null where they were not asked for.
 */
export function steps({ choices }) {
  return choices.map((choice) => {
    const { num_drafted: numDrafted = 0, num_accepted: numAccepted = 0, text_offset: offsets = [] } = choice.slipstream ?? {};
    const logprobs = readLogprobs(choice.logprobs);
    const tokens = (choice.token_ids ?? []).map((id, place) => ({
      id,
      isDrafted: place < numAccepted,
      offset: offsets[place],
      logprob: logprobs[place]?.logprob ?? null,
      top: logprobs[place]?.top ?? null,
    }));
    const text = choice.text ?? choice.delta?.content ?? "";
    return { text, tokens, numDrafted, numAccepted, reason: choice.finish_reason ?? null };
  });
}

/** A list of { logprob, top } from either of OpenAI's two shapes. */
function readLogprobs(logprobs) {
  if (logprobs?.content) {
    return logprobs.content.map(({ logprob, top_logprobs: top }) => ({
      logprob,
      top: top.map((entry) => [entry.token, entry.logprob]),
    }));
  }
  return (logprobs?.token_logprobs ?? []).map((logprob, place) => ({
    logprob,
    top: Object.entries(logprobs.top_logprobs?.[place] ?? {}).sort(([, one], [, other]) => other - one),
  }));
}
