"""Token ids to text, a token at a time and in whole characters. Any function that decodes ids will do."""

from collections.abc import Callable, Sequence

NUM_CONTEXT_TOKENS = 6
MAX_NUM_PENDING_TOKENS = 16
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Detokenizes one sequence incrementally.

    How a token reads can depend on its neighbours (a leading space, a character spread over byte tokens). So a window
    is decoded: tokens whose text is out already as context, then those that are pending. What comes out is the text
    that the pending ones add; while it ends in an incomplete character they stay pending, up to a bound.

    Attributes:
        num_chars: length of the text that came out so far.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt_token_ids: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(prompt_token_ids[-NUM_CONTEXT_TOKENS:])
        self._num_context = len(self._window)
        self._context = decode(self._window)
        self.num_chars = 0

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
        self.num_chars += len(new)
        return new
