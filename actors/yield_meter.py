"""What a target's steps should yield, by what is known of their drafts, and in what time."""

from collections.abc import Callable

from actors.draft_length import expected_tokens


class YieldMeter:
    """Expected tokens in place of actual ones, whose noise would hide what a way of drafting is worth.

    Attributes:
        tokens: that the running step should yield.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ended_at: float | None = None
        self.tokens = 0.0

    def begin(self, num_sequences: int) -> None:
        """Begin a step: each sequence yields one token at least."""
        self.tokens = float(num_sequences)

    def drafted(self, rate: float, num_draft_tokens: int) -> None:
        """Note drafts of one sequence that the step checks, and how often such drafts are right."""
        self.tokens += expected_tokens(rate, num_draft_tokens) - 1.0

    def end(self, *, is_prefill: bool, is_idle: bool) -> float:
        """Return the seconds since the step before ended, 0 where they say nothing; ``is_idle``: none follows."""
        now, since = self._clock(), self._ended_at
        self._ended_at = None if is_idle else now
        return 0.0 if since is None or is_prefill else now - since
