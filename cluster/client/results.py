"""What a server answers, as its callers get it."""

import json
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec
from safetensors.numpy import load

from actors.engine.declared_call import PlainOutput
from actors.engine.errors import GenerationError
from cluster.tensor_names import nest


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """What one step added to a sequence.

    Attributes:
        index: which sequence; those of one prompt follow one another.
        text: may lag behind the tokens.
        segments: the same text as (piece, whether a drafted token wrote it).
        finish_reason: ``stop``, ``length`` or ``time``, in a sequence's last piece.
        seed: reproduces the sequence alone, in its last piece.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    num_drafted: int = 0
    num_accepted: int = 0
    segments: tuple[tuple[str, bool], ...] = ()
    finish_reason: str | None = None
    seed: int | None = None
    score: float | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. ``seed`` is the request's own, or the one that was drawn for it."""

    id: str
    model: str
    seed: int
    sequences: tuple[Piece, ...]
    usage: Usage


@dataclass(frozen=True, kw_only=True)
class Generated(PlainOutput):
    """transformers' output in numpy, by its names and in its shapes, and the answer in text.

    Attributes:
        answer: texts, token ids and reasons, a sequence each.
    """

    answer: Answer = field(repr=False)

    @property
    def texts(self) -> list[str]:
        """The new text of each sequence."""
        return [sequence.text for sequence in self.answer.sequences]

    @property
    def seed(self) -> int:
        """Reproduces the call."""
        return self.answer.seed


def read_generated(content: bytes) -> Generated:
    """Read an answer in safetensors. Raises GenerationError where it is none."""
    try:
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        answer = msgspec.json.decode(metadata["answer"], type=Answer)
        known: Any = {field.name for field in fields(PlainOutput)}
        tensors = {name: value for name, value in nest(load(content)).items() if name in known}
        return Generated(answer=answer, **tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise GenerationError(f"the server's answer cannot be read: {type(error).__name__}: {error}") from error
