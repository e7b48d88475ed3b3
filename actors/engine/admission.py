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


def check_search(request: Request, *, max_model_len: int, block_size: int, num_blocks: int, max_num_seqs: int) -> None:
    """Check what a beam search asks for beyond its ids and lengths.

    Args:
        request: with beams.
        max_model_len: longest sequence, prompt included.
        block_size: tokens a KV block.
        num_blocks: KV blocks of the whole cache.
        max_num_seqs: sequences that may run at once.

    Raises:
        RequestError: naming the field and the limit.
    """
    params = request.params
    if params.num_beams > max_num_seqs:
        raise RequestError(
            f"num_beams: {params.num_beams} asked for, but at most {max_num_seqs} sequences run at once",
            field="num_beams",
            limit=str(max_num_seqs),
        )
    for name in ("grammar", "logprobs", "prompt_logprobs"):
        if getattr(params, name) is not None:
            raise RequestError(f"{name}: not together with num_beams", field=name, limit="num_beams=1")
    if request.emitted_token_ids:
        raise RequestError("num_beams: a search cannot be continued, only run again", field="num_beams")
    num_prompt = len(request.prompt_token_ids)
    num_shared = num_prompt // block_size
    num_tokens = min(num_prompt + params.max_new_tokens, max_model_len)
    num_needed = num_shared + params.num_beams * (-(-num_tokens // block_size) - num_shared)
    if num_needed > num_blocks:
        raise RequestError(
            f"num_beams: {params.num_beams} beams of {num_tokens} tokens may need {num_needed} blocks of "
            f"{block_size} tokens, and the KV cache has {num_blocks}; ask for fewer beams or max_new_tokens",
            field="num_beams",
            limit=f"{num_blocks} blocks",
        )
