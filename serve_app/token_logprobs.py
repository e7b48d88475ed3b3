"""Log-probabilities of tokens in the shapes of OpenAI's two APIs, and in vLLM's for prompts."""

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from actors.engine.request import TokenLogprobs
from serve_app.tokenizer import Tokenizer, token_bytes

UNLIKELY = -9999.0  # OpenAI's figure for what is as good as impossible; JSON knows no infinity
MAX_NUM_NAMES = 65_536


class CompletionLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Parallel lists, an entry a token. The first token of a prompt has no log-probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """A token that might stand in a place. ``bytes`` are its own, also where they are a part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """The token that stands in a place, and the most probable ones there."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """An entry a token."""

    content: list[ContentLogprob]
    refusal: None = None


class PromptLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """A token in a place of the prompt; ``rank`` is 1 for the most probable one, None beyond those asked for."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""For each token of a prompt, by token id; none for the first."""


class TokenNames:
    """What tokens are called in answers: by their text, or ``token_id:7``."""

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool = False) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def bytes(self, token_id: int) -> bytes:
        """What a token writes."""
        return _bytes(self._tokenizer, token_id)

    def text(self, token_id: int, prefix: str = "") -> str:
        """A token's name. A part of a character reads as its bytes in hexadecimal, with ``prefix`` before them."""
        if self._as_ids:
            return f"token_id:{token_id}"
        written = self.bytes(token_id)
        try:
            return written.decode()
        except UnicodeDecodeError:
            return prefix + written.decode(errors="backslashreplace")


@lru_cache(maxsize=MAX_NUM_NAMES)
def _bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    return token_bytes(tokenizer, token_id)


def completion_logprobs(
    names: TokenNames,
    token_ids: Sequence[int],
    entries: Sequence[TokenLogprobs | None],
    offsets: Sequence[int],
    num_top: int,
) -> CompletionLogprobs:
    """As ``/v1/completions`` gives them: the token itself is among the most probable ones, if need be as one more.

    Args:
        names: of tokens.
        token_ids: of the choice.
        entries: one a token.
        offsets: where each token begins in the text of the choice.
        num_top: most probable tokens that are asked for; with 0 there is no list of them.
    """
    tops = [
        None if entry is None else _top(names, token_id, entry, num_top)
        for token_id, entry in zip(token_ids, entries, strict=True)
    ]
    return CompletionLogprobs(
        tokens=[_legacy_name(names, token_id) for token_id in token_ids],
        token_logprobs=[None if entry is None else _finite(entry.logprob) for entry in entries],
        top_logprobs=tops if num_top else None,
        text_offset=list(offsets),
    )


def chat_logprobs(
    names: TokenNames, token_ids: Sequence[int], entries: Sequence[TokenLogprobs], num_top: int
) -> ChatLogprobs:
    """As ``/v1/chat/completions`` gives them, an entry a token."""
    content = [
        ContentLogprob(
            token=names.text(token_id),
            logprob=_finite(entry.logprob),
            bytes=list(names.bytes(token_id)),
            top_logprobs=[
                TopLogprob(token=names.text(other), logprob=_finite(value), bytes=list(names.bytes(other)))
                for other, value in entry.top[:num_top]
            ],
        )
        for token_id, entry in zip(token_ids, entries, strict=True)
    ]
    return ChatLogprobs(content=content)


def prompt_logprobs(
    names: TokenNames, token_ids: Sequence[int], entries: Sequence[TokenLogprobs], num_top: int
) -> PromptLogprobs:
    """As vLLM gives them. ``entries`` belong to the tokens from the second on."""
    result: PromptLogprobs = [None]
    for token_id, entry in zip(token_ids[1:], entries, strict=True):
        top = entry.top[:num_top]
        ranks = {other: rank for rank, (other, _) in enumerate(top, 1)}
        values = {token_id: entry.logprob} | dict(top)
        result.append(
            {
                str(other): PromptLogprob(
                    logprob=_finite(value), rank=ranks.get(other), decoded_token=names.text(other)
                )
                for other, value in values.items()
            }
        )
    return result


def _top(names: TokenNames, token_id: int, entry: TokenLogprobs, num_top: int) -> dict[str, float]:
    top: dict[str, float] = {}
    for other, value in (*entry.top[:num_top], (token_id, entry.logprob)):
        top.setdefault(_legacy_name(names, other), _finite(value))
    return top


def _legacy_name(names: TokenNames, token_id: int) -> str:
    return names.text(token_id, prefix="bytes:")


def _finite(logprob: float) -> float:
    return max(logprob, UNLIKELY)
