"""Prompts in their many spellings, as token ids."""

from collections.abc import Sequence

import msgspec

from actors.engine.errors import RequestError
from serve_app.errors import ApiError
from serve_app.gateway import Gateway, ModelCard, check_prompt


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt; ``text`` is empty where it came as ids."""

    token_ids: tuple[int, ...]
    text: str = ""


async def read_prompts(
    gateway: Gateway, card: ModelCard, prompt: str | Sequence[str | int | Sequence[int]], field: str = "prompt"
) -> list[Prompt]:
    """Tokenize and check. Raises RequestError (empty, too long, unknown ids, too many), ApiError 422 (a mixed list)."""
    items: list[str | Sequence[int]] = [prompt] if isinstance(prompt, str) else _items(prompt, field)
    limit = gateway.limits.max_num_prompts
    if len(items) > limit:
        raise RequestError(f"{field}: {len(items)} prompts, but the limit is {limit}", field=field, limit=str(limit))
    return [await _read(gateway, card, item, field) for item in items]


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


async def _read(gateway: Gateway, card: ModelCard, item: str | Sequence[int], field: str) -> Prompt:
    if not isinstance(item, str):
        return Prompt(token_ids=check_prompt(item, card, field))
    if not item:
        raise RequestError(f"{field}: at least one character is needed, but it is empty", field=field, limit="1")
    return Prompt(token_ids=check_prompt(await gateway.encode(item), card, field), text=item)
