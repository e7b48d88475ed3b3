"""Token counts of a request."""

from collections.abc import Sequence

import msgspec

from serve_app.prompts import Prompt


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts; a prompt counts once, however many answers were asked for."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def count_usage(prompts: Sequence[Prompt], num_new_tokens: int) -> Usage:
    """The counts of a request."""
    num_prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
    return Usage(
        prompt_tokens=num_prompt_tokens,
        completion_tokens=num_new_tokens,
        total_tokens=num_prompt_tokens + num_new_tokens,
    )
