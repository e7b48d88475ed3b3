"""What plans for drafting have yielded of what they promised."""

DECAY = 0.95  # of what is remembered, at each drafted step
MIN_SHARE = 0.85
MIN_NUM_STEPS = 40  # drafted steps before it counts: the first promises rest on guesses, which are soon replaced
FORGETTING = 0.005  # of the shortfall, at each step without drafts: what did not pay is tried again some day


class TrackRecord:
    """The share of their promises that plans keep, at most 1.

    Plans are chosen for what they promise, so where two are close it is the overrated one that wins, and what a model
    leaves out, a wake-up here and a shared core there, is always a cost. Held against what came of it, drafting that
    promises little and keeps less is left alone.
    """

    def __init__(self) -> None:
        self._kept = 0.0
        self._promised = 0.0
        self._num_steps = 0
        self.share = 1.0

    def drafted(self, kept: float, promised: float) -> None:
        """Enter a step by the tokens that it yielded, and those that were promised for its time."""
        self._kept = self._kept * DECAY + kept
        self._promised = self._promised * DECAY + promised
        self._num_steps += 1
        if self._num_steps >= MIN_NUM_STEPS and self._promised > 0.0:
            self.share = min(1.0, max(MIN_SHARE, self._kept / self._promised))

    def undrafted(self) -> None:
        """Let a step without drafts pass."""
        self.share += (1.0 - self.share) * FORGETTING
