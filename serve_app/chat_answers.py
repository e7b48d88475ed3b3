"""The answers of ``/v1/chat/completions``: whole, and in chunks."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from serve_app.choices import DraftInfo, FinishWord
from serve_app.token_logprobs import ChatLogprobs, PromptLogprobs
from serve_app.usage import Usage


class AnswerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. ``token_ids`` and ``slipstream`` come where asked for."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishWord | None = None
    token_ids: tuple[int, ...] | UnsetType = UNSET
    slipstream: DraftInfo | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. ``created`` is in seconds since 1970."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class ChatDelta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a chunk adds: the role in the first one of a choice, then text, nothing in the last."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk of one answer. ``token_ids`` and ``slipstream`` come where asked for."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishWord | None = None
    token_ids: tuple[int, ...] | UnsetType = UNSET
    slipstream: DraftInfo | UnsetType = UNSET


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk of a streamed answer; the one with the counts has no choices."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
