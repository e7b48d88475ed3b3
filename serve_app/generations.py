"""``/generate`` as data: the fields of ``transformers.GenerationConfig`` that are served, flat beside a prompt."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from actors.engine.params import MAX_INT, MAX_STOP_STRINGS, GenerationParams, TokenId
from actors.engine.request import TokenLogprobs
from actors.request_stats import RequestStats
from serve_app.sampling_fields import StopString
from serve_app.usage import Usage

PARAM_NAMES = frozenset(GenerationParams.__struct_fields__) | {"max_length"}


class GenerateRequest(GenerationParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt, how to answer, and generation parameters as ``model.generate`` takes them.

    Either ``prompt`` (a text or a list of texts) or ``input_ids`` (ids, or a list of lists). Parameters that are not in
    the body come from the model's generation defaults; an explicit null switches a default off. Stop strings stay in
    the text, as transformers leaves them there.
    """

    prompt: str | list[str] | None = None
    input_ids: list[int | list[int]] | None = None
    model: str | None = None
    stream: bool = False
    num_return_sequences: Annotated[int, Meta(ge=1, le=MAX_INT)] = 1
    max_length: Annotated[int, Meta(ge=1, le=MAX_INT)] | None = None
    eos_token_id: int | tuple[TokenId, ...] | None = None  # type: ignore[assignment]
    forced_eos_token_id: TokenId | tuple[TokenId, ...] | None = None  # type: ignore[assignment]
    stop_strings: StopString | Annotated[tuple[StopString, ...], Meta(max_length=MAX_STOP_STRINGS)] | None = None  # type: ignore[assignment]


class GeneratedSequence(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence, or what one step added to it. Sequences of one prompt follow one another.

    Attributes:
        segments: (text, whether a drafted token wrote it), in order, the whole of ``text``.
        seed: reproduces this sequence; in a stream it comes with the last chunk, and so does ``stats``.
        stats: what drafting did for this sequence.
        logprobs: per token (its log-probability, [(id, log-probability) of the most probable ones]).
        prompt_logprobs: the same for the prompt's tokens from the second on; in a stream with the first chunk.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    num_drafted: int
    num_accepted: int
    segments: tuple[tuple[str, bool], ...]
    finish_reason: str | None = None
    seed: int | UnsetType = UNSET
    stats: RequestStats | UnsetType = UNSET
    logprobs: tuple[TokenLogprobs, ...] | UnsetType = UNSET
    prompt_logprobs: tuple[TokenLogprobs, ...] | UnsetType = UNSET


class GenerateResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer. ``seed`` is the request's own, or the one that was drawn for it."""

    id: str
    model: str
    seed: int
    sequences: list[GeneratedSequence]
    usage: Usage
