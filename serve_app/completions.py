"""``/v1/completions`` as data: OpenAI's request and answer, and the way from one to the other."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from actors.engine.params import MAX_INT, MAX_STOP_STRINGS

Count = Annotated[int, Meta(ge=1, le=MAX_INT)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
StopString = Annotated[str, Meta(min_length=1)]
Bias = Annotated[float, Meta(ge=-100.0, le=100.0)]
DEFAULT_MAX_TOKENS = 16
MAX_NUM_BIASES = 1024


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's options of a stream. ``include_usage`` adds a last chunk with the counts."""

    include_usage: bool = False


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's fields, then the ones that other servers of open models share, then Slipstream's.

    Attributes:
        prompt: a text, a list of texts, token ids, or a list of lists of token ids.
        temperature: 1 by default (or the model's own default); 0 is greedy.
        top_k: 0 and -1 keep all tokens.
        ignore_eos: go on behind the model's end-of-text token.
        num_assistant_tokens: pins the draft length; 0 turns drafting off. Never changes the text.
        return_token_ids: add ids, origins and draft counts to each choice.
    """

    prompt: str | list[str | int | list[int]]
    model: str | None = None
    max_tokens: Count | None = None
    n: Count | None = None
    temperature: Annotated[float, Meta(ge=0.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[int, Bias], Meta(max_length=MAX_NUM_BIASES)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    logprobs: Annotated[int, Meta(ge=0)] | None = None
    echo: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    top_k: Annotated[int, Meta(ge=-1, le=MAX_INT)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=MAX_INT)] | None = None
    ignore_eos: bool = False
    return_token_ids: bool = False

    num_assistant_tokens: Annotated[int, Meta(ge=0, le=64)] | None = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """``stop`` as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def overrides(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The fields under GenerationConfig's names, to lie over the model's ``defaults``; the seed apart."""
        top_k = 0 if self.top_k is None and defaults.get("top_k") is None else self.top_k
        given = {
            "temperature": self.temperature or None,
            "top_p": self.top_p,
            "top_k": 0 if top_k == -1 else top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self.logit_bias or None,
            "min_new_tokens": self.min_tokens,
            "logprobs": self.logprobs,
            "num_assistant_tokens": self.num_assistant_tokens,
        }
        return {name: value for name, value in given.items() if value is not None} | {
            "max_new_tokens": self.max_tokens or DEFAULT_MAX_TOKENS,
            "do_sample": self.temperature != 0.0,
            "stop_strings": self.stop_strings,
            "ignore_eos": self.ignore_eos,
        }


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts; a prompt counts once, however many answers were asked for."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's log-probabilities: parallel lists, an entry a token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class DraftInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who wrote what. ``segments`` are (text, whether a drafted token wrote it), in order, the whole of ``text``."""

    num_drafted: int
    num_accepted: int
    segments: tuple[tuple[str, bool], ...]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, or what one step added to it. ``token_ids`` and ``slipstream`` come where asked for."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length", "abort"] | None = None
    token_ids: tuple[int, ...] | UnsetType = UNSET
    slipstream: DraftInfo | UnsetType = UNSET


class CompletionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer, or one chunk of a streamed one. ``created`` is in seconds since 1970."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
