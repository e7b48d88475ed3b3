"""A tokenizer's vocabulary as bytes: what each id stands for, whatever stands around it."""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"
_ANCHORS = ("\n", "a", ".")  # what stands behind them is no beginning of a text; most things do not join with all


class Vocabulary:
    """Ids to bytes and text to ids, for tokenizers whose tokens' bytes, put together, are the text.

    These are byte-level ones and SentencePiece's, BPE and Unigram; the one space that the latter put before a text is
    taken off again.

    Args:
        tokenizer: as its files describe it.

    Raises:
        ValueError: its tokens do not say what bytes they stand for.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Nothing may be cut off or filled up on the way.
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        description: dict[str, Any] = json.loads(self._tokenizer.to_str())
        kinds = set(_kinds(description.get("decoder")))
        if "ByteLevel" in kinds:
            spell = _byte_level
        elif kinds & {"Metaspace", "ByteFallback", "Replace"}:
            spell = _metaspace
        else:
            raise ValueError(f"its decoder ({', '.join(sorted(kinds)) or 'none'}) does not go token by token")
        self.ids: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_ids = {token_id: token.content for token_id, token in added.items() if token.special}
        self.pieces: dict[int, bytes] = {
            token_id: token.encode() if token_id in added else spell(token) for token, token_id in self.ids.items()
        }

    @cached_property
    def by_bytes(self) -> dict[bytes, int]:
        """Ids by what they stand for; special tokens are left out, and of several the first counts."""
        found: dict[bytes, int] = {}
        for token_id in sorted(self.pieces):
            if token_id not in self.special_ids:
                found.setdefault(self.pieces[token_id], token_id)
        return found

    def spell(self, token_ids: Iterable[int]) -> bytes:
        """The bytes of some ids; those that are not in the vocabulary stand for none."""
        return b"".join(self.pieces.get(token_id, b"") for token_id in token_ids)

    def encode(self, text: str) -> list[int]:
        """Ids of a text that begins here. Their bytes may have a space before it."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_behind(self, before: str, text: str) -> list[int] | None:
        """Ids of ``text`` where ``before`` stands before it; None where a token would cross that border."""
        whole = self.encode(before + text)
        border = len(before.encode())
        extra = len(self.spell(whole)) - border - len(text.encode())
        if extra not in (0, 1):
            return None
        end = -extra  # of the ids passed by, without a space that the tokenizer put first
        for index, token_id in enumerate(whole):
            if end == border:
                return whole[index:]
            end += len(self.pieces.get(token_id, b""))
        return [] if end == border else None

    def encode_within(self, before: str, text: str) -> list[int]:
        """Ids of ``text`` within a longer one, if possible as they are where all of it is encoded together.

        At worst they are single bytes. Raises ValueError where the vocabulary has not even these.
        """
        for context in (before, *_ANCHORS):
            found = self.encode_behind(context, text) if context else None
            if found is not None:
                return found
        pieces = [bytes([byte]) for byte in text.encode()]
        if any(piece not in self.by_bytes for piece in pieces):
            raise ValueError("the tokenizer has no ids for some of the text")
        return [self.by_bytes[piece] for piece in pieces]


def agree(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether two vocabularies are one for all that matters: equal where both have a token, and few have only one."""
    shared = one.keys() & other.keys()
    return all(one[token] == other[token] for token in shared) and len(shared) >= 0.99 * max(len(one), len(other))


def _kinds(decoder: Any) -> Iterable[str]:
    """The types of a decoder's description and of its parts."""
    if isinstance(decoder, dict):
        yield str(decoder.get("type", ""))
        for part in decoder.get("decoders", ()):
            yield from _kinds(part)


def _letters() -> dict[str, int]:
    """The letter that byte-level tokenizers write for each byte: itself where it can be read, others in order."""
    alphabet = sorted(ByteLevel.alphabet())
    own = {letter: ord(letter) for letter in alphabet if ord(letter) < 256}
    rest = (byte for byte in range(256) if byte not in own.values())
    return own | dict(zip((letter for letter in alphabet if letter not in own), rest, strict=True))


_BYTE_LETTERS = _letters()


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTE_LETTERS[letter] for letter in token)
    except KeyError:  # no token of the model's, but one that was put in as it is read
        return token.encode()


def _metaspace(token: str) -> bytes:
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(_SPACE, " ").encode()
