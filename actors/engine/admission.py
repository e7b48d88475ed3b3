"""What the engine refuses before a request touches anything."""

from actors.engine.errors import RequestError
from actors.engine.request import Request


def check_request(request: Request, *, vocab_size: int, max_model_len: int, capacity: int) -> None:
    """Check a request's ids and lengths.

    Args:
        request: what is asked.
        vocab_size: every id must lie below it.
        max_model_len: longest sequence, prompt included.
        capacity: tokens that the whole KV cache holds.

    Raises:
        RequestError: naming the field and the limit.
    """
    num_prompt = len(request.prompt_token_ids)
    num_new = request.params.max_new_tokens
    ids = (*request.prompt_token_ids, *request.emitted_token_ids)
    if not num_prompt:
        raise RequestError("prompt: at least one token is needed, but it is empty", field="prompt", limit="1")
    foreign = next((token for token in ids if not 0 <= token < vocab_size), None)
    if foreign is not None:
        raise RequestError(
            f"prompt: token id {foreign} is outside of the vocabulary (0 to {vocab_size - 1})",
            field="prompt",
            limit=str(vocab_size - 1),
        )
    longest = min(max_model_len, capacity)
    if len(ids) >= longest:
        raise RequestError(
            f"prompt: {len(ids)} tokens leave no room in a context of {longest}", field="prompt", limit=str(longest)
        )
    if min(num_prompt + num_new, max_model_len) > capacity:
        raise RequestError(
            f"max_new_tokens: {num_prompt} prompt tokens and {num_new} new ones exceed the KV cache of {capacity}",
            field="max_new_tokens",
            limit=str(capacity - num_prompt),
        )
