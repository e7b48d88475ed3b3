"""Token ids to text, a token at a time: whole characters only, cut at stop strings, each piece with its origin."""

from collections.abc import Iterable, Sequence

from serve_app.tokenizer import Tokenizer

NUM_CONTEXT_TOKENS = 6
MAX_NUM_PENDING_TOKENS = 16
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"

Segment = tuple[str, bool]
"""A piece of text, and whether a drafted token wrote it."""


class TextDecoder:
    """Detokenizes one sequence incrementally.

    How a token reads can depend on its neighbours (a leading space, a character spread over byte tokens). So a window
    is decoded: tokens whose text is out already as context, then those that are pending. What comes out is the text
    that the pending ones add; while it ends in an incomplete character they stay pending.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._window = list(prompt_token_ids[-NUM_CONTEXT_TOKENS:])
        self._num_context = len(self._window)
        self._context = self._decode(self._window)

    def push(self, token_id: int) -> str:
        """Add a token; return the text that is complete now, possibly none."""
        self._window.append(token_id)
        text = self._decode(self._window)
        num_pending = len(self._window) - self._num_context
        is_complete = len(text) > len(self._context) and not text.endswith(_INCOMPLETE)
        return self._emit(text) if is_complete or num_pending >= MAX_NUM_PENDING_TOKENS else ""

    def flush(self) -> str:
        """The rest, at the end of the sequence; an incomplete character reads as U+FFFD."""
        return self._emit(self._decode(self._window)) if len(self._window) > self._num_context else ""

    def _emit(self, text: str) -> str:
        new = text[len(self._context) :]
        self._window = self._window[self._num_context :]
        self._num_context = len(self._window)
        self._context = self._decode(self._window)
        return new

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)


class StopFilter:
    """Cuts text before the first stop string, also where that spans several pieces.

    Holds back no more than could be the beginning of a stop string. ``is_stopped`` says that one was found.
    """

    def __init__(self, stop_strings: Iterable[str]) -> None:
        self._stop_strings = tuple(stop_strings)
        self._held: list[Segment] = []
        self.is_stopped = False

    def push(self, text: str, is_accepted: bool) -> list[Segment]:
        """Add a piece; return what is certain to lie before any stop string."""
        if self.is_stopped or not text:
            return []
        self._held.append((text, is_accepted))
        joined = "".join(piece for piece, _ in self._held)
        found = [index for stop in self._stop_strings if (index := joined.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return self._take(min(found))
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
    """The text of one sequence as it grows: a decoder and, behind it, the stop strings."""

    def __init__(
        self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int] = (), stop_strings: Iterable[str] = ()
    ) -> None:
        self._decoder = TextDecoder(tokenizer, prompt_token_ids)
        self._filter = StopFilter(stop_strings)
        self._is_accepted = False

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was found; no text follows."""
        return self._filter.is_stopped

    def push(self, token_ids: Sequence[int], num_accepted: int = 0) -> list[Segment]:
        """Add a step's tokens, the first ``num_accepted`` of them drafted; return the text that they complete."""
        segments: list[Segment] = []
        for index, token_id in enumerate(token_ids):
            self._is_accepted = index < num_accepted
            segments += self._filter.push(self._decoder.push(token_id), self._is_accepted)
        return join(segments)

    def finish(self) -> list[Segment]:
        """The rest of the text, at the end of the sequence."""
        segments = self._filter.push(self._decoder.flush(), self._is_accepted)
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
