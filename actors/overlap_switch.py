"""Whether drafts write ahead while their target checks: as pinned, or as the measured curves of both ways tell.

Where target and draft share cores, a draft that writes ahead slows the very forward that it runs ahead of. A target
therefore spends a few steps now and then in the other way, which measures its curves, and changes over where they
promise clearly more.
"""

FIRST_TRIAL = 24  # drafted steps before the other way is tried for the first time
TRIAL_LENGTH = 12
MIN_INTERVAL = 256  # drafted steps between two trials, doubled each time that nothing changes
MAX_INTERVAL = 8192
HYSTERESIS = 1.04  # what the other way must promise over the present one


class OverlapSwitch:
    """Counts drafted steps; :attr:`is_on` is the way of the present one."""

    def __init__(self, pinned: bool | None) -> None:
        self._is_pinned = pinned is not None
        self._choice = pinned is not False
        self._interval = MIN_INTERVAL
        self._num_steps_left = FIRST_TRIAL
        self._is_trial = False

    @property
    def is_on(self) -> bool:
        """Whether drafts write ahead."""
        return self._choice != self._is_trial

    def note_step(self) -> bool:
        """Count a drafted step. Returns whether a trial is over, so that :meth:`settle` has to be called."""
        if self._is_pinned:
            return False
        self._num_steps_left -= 1
        if self._num_steps_left > 0:
            return False
        if self._is_trial:
            return True
        self._is_trial, self._num_steps_left = True, TRIAL_LENGTH
        return False

    def settle(self, rate_on: float, rate_off: float) -> None:
        """End a trial: take the way that promises more tokens a second, the present one where it is close."""
        present, other = (rate_on, rate_off) if self._choice else (rate_off, rate_on)
        if other > present * HYSTERESIS:
            self._choice = not self._choice
            self._interval = MIN_INTERVAL
        else:
            self._interval = min(2 * self._interval, MAX_INTERVAL)
        self._is_trial, self._num_steps_left = False, self._interval
