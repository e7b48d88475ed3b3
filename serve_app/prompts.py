"""Prompts in their many spellings, as token ids."""

from collections.abc import Sequence

import msgspec

from actors.engine.errors import RequestError
from serve_app.cluster_view import ModelCard
from serve_app.errors import ApiError
from serve_app.gateway import Gateway, check_prompt


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt; ``text`` is empty where it came as ids."""

    token_ids: tuple[int, ...]
    text: str = ""


async def read_prompts(
    gateway: Gateway,
    card: ModelCard,
    prompt: str | Sequence[str | int | Sequence[int]],
    field: str = "prompt",
    *,
    add_special_tokens: bool = True,
    num_kept: int | None = None,
) -> list[Prompt]:
    """Tokenize and check.

    Args:
        gateway: has the tokenizer.
        card: of the model.
        prompt: a text, a list of texts, ids, or a list of lists of ids.
        field: what the caller knows it by.
        add_special_tokens: put around a text what the model expects there.
        num_kept: keep only so many of the last tokens; -1 is as many as the model takes.

    Raises:
        RequestError: empty, too long, unknown ids, too many.
        ApiError: 422 for a mixed list.
    """
    items: list[str | Sequence[int]] = [prompt] if isinstance(prompt, str) else _items(prompt, field)
    limit = gateway.limits.max_num_prompts
    if len(items) > limit:
        raise RequestError(f"{field}: {len(items)} prompts, but the limit is {limit}", field=field, limit=str(limit))
    return [await _read(gateway, card, item, field, add_special_tokens, num_kept) for item in items]


def keep_last(prompt: Prompt, num_kept: int | None, card: ModelCard) -> Prompt:
    """Cut a prompt to its last ``num_kept`` tokens; -1 is as many as the model takes, None keeps all."""
    if num_kept is None:
        return prompt
    limit = card.max_num_prompt_tokens if num_kept == -1 else num_kept
    return prompt if len(prompt.token_ids) <= limit else Prompt(token_ids=prompt.token_ids[-limit:])


def _items(prompt: Sequence[str | int | Sequence[int]], field: str) -> list[str | Sequence[int]]:
    """A list of texts or of id lists as it is; a list of ids as the one prompt that it is."""
    if not prompt:
        raise RequestError(f"{field}: at least one prompt or token id is needed, but the list is empty", field=field)
    if all(isinstance(item, str) for item in prompt) or not any(isinstance(item, str | int) for item in prompt):
        return [item for item in prompt if not isinstance(item, int)]
    ids = [item for item in prompt if isinstance(item, int)]
    if len(ids) == len(prompt):
        return [ids]
    raise ApiError(
        422, f"{field}: a list holds texts, or ids, or lists of ids, not a mix", param=field, code="wrong_type"
    )


async def _read(
    gateway: Gateway,
    card: ModelCard,
    item: str | Sequence[int],
    field: str,
    add_special_tokens: bool,
    num_kept: int | None,
) -> Prompt:
    if isinstance(item, str):
        if not item:
            raise RequestError(f"{field}: at least one character is needed, but it is empty", field=field, limit="1")
        token_ids = await gateway.encode(item, add_special_tokens=add_special_tokens)
        prompt = Prompt(token_ids=tuple(token_ids), text=item)
    else:
        prompt = Prompt(token_ids=tuple(item))
    prompt = keep_last(prompt, num_kept, card)
    check_prompt(prompt.token_ids, card, field)
    return prompt
