"""The text of a sequence as it grows: cut at stop strings, each piece with its origin."""

from collections.abc import Iterable, Sequence

import msgspec

from cluster.detokenizer import Detokenizer
from serve_app.tokenizer import Tokenizer

Segment = tuple[str, bool]
"""A piece of text, and whether a drafted token wrote it."""


class TextRules(msgspec.Struct, frozen=True, kw_only=True):
    """How the tokens of an answer become its text.

    Attributes:
        stop_strings: the text is cut before the first of these.
        include_stop: keep what ended the text, be it a stop string or a token.
        skip_special_tokens: special tokens make no text.
    """

    stop_strings: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True


PLAIN = TextRules()


class StopFilter:
    """Cuts text before the first stop string (or behind it), also where that spans several pieces.

    Holds back no more than could be the beginning of a stop string. ``is_stopped`` says that one was found.
    """

    def __init__(self, stop_strings: Iterable[str], *, include_stop: bool = False) -> None:
        self._stop_strings = tuple(stop_strings)
        self._include_stop = include_stop
        self._held: list[Segment] = []
        self.is_stopped = False

    def push(self, text: str, is_accepted: bool) -> list[Segment]:
        """Add a piece; return what is certain to lie before any stop string."""
        if self.is_stopped or not text:
            return []
        if not self._stop_strings:
            return [(text, is_accepted)]
        self._held.append((text, is_accepted))
        joined = "".join(piece for piece, _ in self._held)
        found = [(index, len(stop)) for stop in self._stop_strings if (index := joined.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            index, length = min(found)
            return self._take(index + length if self._include_stop else index)
        return self._take(len(joined) - self._num_held(joined))

    def flush(self) -> list[Segment]:
        """What was held back, at the end of a sequence that no stop string ended."""
        held, self._held = self._held, []
        return [] if self.is_stopped else held

    def _num_held(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop string."""
        longest = max((len(stop) for stop in self._stop_strings), default=1) - 1
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self._stop_strings)), 0)

    def _take(self, num_chars: int) -> list[Segment]:
        """Remove the first ``num_chars`` characters of what is held."""
        taken: list[Segment] = []
        while num_chars > 0:
            text, is_accepted = self._held.pop(0)
            taken.append((text[:num_chars], is_accepted))
            if len(text) > num_chars:
                self._held.insert(0, (text[num_chars:], is_accepted))
            num_chars -= len(text)
        return taken


class TextStream:
    """The text of one sequence as it grows: a detokenizer and, behind it, the stop strings.

    Attributes:
        offsets: for each token so far, the length of the text that was complete before it.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int] = (), rules: TextRules = PLAIN) -> None:
        self._detokenizer = Detokenizer(
            lambda ids: tokenizer.decode(ids, skip_special_tokens=rules.skip_special_tokens), prompt_token_ids
        )
        self._filter = StopFilter(rules.stop_strings, include_stop=rules.include_stop)
        self._is_accepted = False
        self.offsets: list[int] = []

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was found; no text follows."""
        return self._filter.is_stopped

    def push(self, token_ids: Sequence[int], num_accepted: int = 0, *, is_last_hidden: bool = False) -> list[Segment]:
        """Add a step's tokens, the first ``num_accepted`` of them drafted; return the text that they complete.

        ``is_last_hidden``: the last one ends the sequence and makes no text.
        """
        segments: list[Segment] = []
        for index, token_id in enumerate(token_ids):
            self.offsets.append(self._detokenizer.num_chars)
            if is_last_hidden and index == len(token_ids) - 1:
                break
            self._is_accepted = index < num_accepted
            segments += self._filter.push(self._detokenizer.push(token_id), self._is_accepted)
        return join(segments)

    def finish(self) -> list[Segment]:
        """The rest of the text, at the end of the sequence."""
        segments = self._filter.push(self._detokenizer.flush(), self._is_accepted)
        return join(segments + self._filter.flush())


def join(segments: Iterable[Segment]) -> list[Segment]:
    """Merge neighbours of the same origin."""
    joined: list[Segment] = []
    for text, is_accepted in segments:
        if joined and joined[-1][1] == is_accepted:
            joined[-1] = (joined[-1][0] + text, is_accepted)
        else:
            joined.append((text, is_accepted))
    return joined
