"""Whether drafts write ahead while their target checks: as pinned, or as what both ways have yielded tells.

Where target and draft share cores, a draft that writes ahead slows the very forward that it runs ahead of, by how much
no model of either tells. So a target begins without, spends a few steps now and then in the other way, and changes over
where that has yielded clearly more tokens a second.
"""

from dataclasses import dataclass

FIRST_TRIAL = 24  # steps before the other way is tried for the first time
TRIAL_LENGTH = 16
NUM_SETTLING = 2  # steps after a change that say nothing: what was under way then belongs to neither way
MIN_INTERVAL = 256  # steps between two trials, doubled each time that nothing changes
MAX_INTERVAL = 8192
HYSTERESIS = 1.04  # what the other way must have yielded over the present one
DECAY = 0.97  # of what is remembered of a way, at each of its steps


@dataclass
class _Yield:
    """Tokens and seconds of one way's steps, older ones forgotten."""

    tokens: float = 0.0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def add(self, tokens: float, seconds: float) -> None:
        self.tokens = self.tokens * DECAY + tokens
        self.seconds = self.seconds * DECAY + seconds


class OverlapSwitch:
    """Counts steps and what they yield; :attr:`is_on` is the way of the present one."""

    def __init__(self, pinned: bool | None) -> None:
        self._is_pinned = pinned is not None
        self._choice = pinned is True
        self._interval = MIN_INTERVAL
        self._num_steps_left = FIRST_TRIAL
        self._num_settling = 0
        self._is_trial = False
        self._yields = {True: _Yield(), False: _Yield()}

    @property
    def is_on(self) -> bool:
        """Whether drafts write ahead."""
        return self._choice != self._is_trial

    def note_step(self, tokens: float, seconds: float) -> None:
        """Enter a step.

        Args:
            tokens: what it should have yielded by what is known of the drafts, which is less noisy than what it did.
            seconds: since the step before; 0 where that is not known.
        """
        if self._is_pinned:
            return
        if self._num_settling:
            self._num_settling -= 1
        elif seconds > 0.0:
            self._yields[self.is_on].add(tokens, seconds)
        self._num_steps_left -= 1
        if self._num_steps_left > 0:
            return
        if self._is_trial:
            self._settle()
        else:
            self._is_trial, self._num_steps_left = True, TRIAL_LENGTH
            self._yields[self.is_on] = _Yield()
        self._num_settling = NUM_SETTLING

    def _settle(self) -> None:
        """End a trial: take the way that has yielded more, the present one where it is close."""
        if self._yields[not self._choice].rate > self._yields[self._choice].rate * HYSTERESIS:
            self._choice = not self._choice
            self._interval = MIN_INTERVAL
        else:
            self._interval = min(2 * self._interval, MAX_INTERVAL)
        self._is_trial, self._num_steps_left = False, self._interval
