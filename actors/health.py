"""Whether a draft is worth waiting for, from the answers that it gave or missed."""

from dataclasses import dataclass

MAX_MISSES = 2
MIN_BACKOFF = 0.5
MAX_BACKOFF = 30.0


@dataclass
class DraftHealth:
    """One draft as its target sees it. All times are seconds of the caller's clock.

    A draft that misses :data:`MAX_MISSES` deadlines in a row is suspended: its sequences decode plainly. When the
    backoff is over it is *on trial*: it is asked, but nobody waits for the answer. The answer takes it back; none
    within the trial doubles the backoff.
    """

    num_misses: int = 0
    backoff: float = MIN_BACKOFF
    suspended_until: float | None = None

    def can_wait(self) -> bool:
        """Whether sequences may be held for this draft's answer."""
        return self.suspended_until is None

    def can_try(self, now: float) -> bool:
        """Whether a suspended draft may be asked again, once, without waiting for it."""
        return self.suspended_until is not None and now >= self.suspended_until

    def tried(self, now: float) -> None:
        """Note that a suspended draft was asked; the next trial is a doubled backoff away unless it answers."""
        self.backoff = min(2 * self.backoff, MAX_BACKOFF)
        self.suspended_until = now + self.backoff

    def missed(self, now: float) -> None:
        """Note a deadline that passed without an answer."""
        self.num_misses += 1
        if self.num_misses >= MAX_MISSES and self.suspended_until is None:
            self.suspended_until = now + self.backoff

    def answered(self) -> None:
        """Note an answer: all is forgiven."""
        self.num_misses = 0
        self.backoff = MIN_BACKOFF
        self.suspended_until = None
