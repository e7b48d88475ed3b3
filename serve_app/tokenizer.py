"""Text to ids and back, behind one small protocol."""

from collections.abc import Sequence
from typing import Any, Protocol

from tokenizers import Tokenizer as RustTokenizer


class Tokenizer(Protocol):
    """What the door needs of a tokenizer. Safe to call from several threads."""

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt, with the special tokens that the model expects around one."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of some ids. Bytes that make no character read as U+FFFD."""


class FastTokenizer:
    """A tokenizer of the ``tokenizers`` library, called without transformers' wrapper in between."""

    def __init__(self, tokenizer: RustTokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """See :class:`Tokenizer`."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """See :class:`Tokenizer`."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))


class SlowTokenizer:
    """A tokenizer of transformers that is written in Python."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """See :class:`Tokenizer`."""
        return list(self._tokenizer.encode(text))

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """See :class:`Tokenizer`."""
        text = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return str(text)


def adapt(tokenizer: Any) -> Tokenizer:
    """Wrap one of transformers' tokenizers in the protocol."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return FastTokenizer(backend) if isinstance(backend, RustTokenizer) else SlowTokenizer(tokenizer)
