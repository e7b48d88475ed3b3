"""Text to ids and back, behind one small protocol."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

from tokenizers import Tokenizer as RustTokenizer
from tokenizers.pre_tokenizers import ByteLevel

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Tokenizer(Protocol):
    """What the door needs of a tokenizer. Safe to call from several threads."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text, by default with the special tokens that the model expects around a prompt."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of some ids. Bytes that make no character read as U+FFFD."""

    def spelling(self, token_id: int) -> str:
        """How the vocabulary spells a token; empty for an id that it lacks."""

    def __hash__(self) -> int: ...


class FastTokenizer:
    """A tokenizer of the ``tokenizers`` library, called without transformers' wrapper in between."""

    def __init__(self, tokenizer: RustTokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """See :class:`Tokenizer`."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """See :class:`Tokenizer`."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def spelling(self, token_id: int) -> str:
        """See :class:`Tokenizer`."""
        return self._tokenizer.id_to_token(token_id) or ""


class SlowTokenizer:
    """A tokenizer of transformers that is written in Python."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """See :class:`Tokenizer`."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """See :class:`Tokenizer`."""
        text = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return str(text)

    def spelling(self, token_id: int) -> str:
        """See :class:`Tokenizer`."""
        return self._tokenizer.convert_ids_to_tokens(token_id) or ""


def adapt(tokenizer: Any) -> Tokenizer:
    """Wrap one of transformers' tokenizers in the protocol."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return FastTokenizer(backend) if isinstance(backend, RustTokenizer) else SlowTokenizer(tokenizer)


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """What a single token writes, also where that is only a part of a character.

    A token is read behind another one, since some tokenizers drop the blank before the first word of a text.
    """
    anchor = tokenizer.encode("a", add_special_tokens=False)
    before = tokenizer.decode(anchor, skip_special_tokens=False)
    text = tokenizer.decode([*anchor, token_id], skip_special_tokens=False)[len(before) :]
    if _INCOMPLETE not in text:
        return text.encode()
    spelling = tokenizer.spelling(token_id)
    if match := _BYTE_TOKEN.fullmatch(spelling):
        return bytes([int(match[1], 16)])
    table = _bytes_by_character()
    return bytes(table[character] for character in spelling) if set(spelling) <= table.keys() else text.encode()


@cache
def _bytes_by_character() -> dict[str, int]:
    """The characters by which byte-level tokenizers spell bytes: itself where it is printable, else one from U+0100."""
    alphabet = sorted(ByteLevel.alphabet())
    own = {character: ord(character) for character in alphabet if ord(character) < 0x100}
    others = [byte for byte in range(0x100) if byte not in own.values()]
    return own | dict(zip((c for c in alphabet if ord(c) >= 0x100), others, strict=True))
