"""How often searches may join the steps of other sequences."""

MAX_GROWTH = 1.25  # of the estimate in one step, so that a long prefill does not pass for a step
AGING = 0.8  # ... and with each step that says nothing of it, until it is measured again


class FairShare:
    """Lets searches take as much time as the other sequences' own steps do, and no more.

    A wide search can make a step many times as long. It then joins one of several, so that the others keep half of
    their speed; where more rows cost little, it joins every one.
    """

    def __init__(self) -> None:
        self._debt = 0.0  # seconds that searches are ahead
        self._own_time = 0.0  # seconds that a step of the others takes without searches, as far as is known

    @property
    def is_due(self) -> bool:
        """Whether searches may take part in the next step."""
        return self._debt <= 0.0

    def note(self, elapsed: float, *, has_others: bool, has_beams: bool) -> None:
        """Learn from a step of ``elapsed`` seconds, by who took part in it."""
        if not has_others:
            self._debt = 0.0
        elif has_beams:
            self._debt = max(0.0, self._debt + elapsed - 2 * self._own_time)
            self._own_time *= AGING
        else:
            self._debt = max(0.0, self._debt - elapsed)
            self._own_time = min(elapsed, MAX_GROWTH * self._own_time) if self._own_time else elapsed
