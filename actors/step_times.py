"""How long an engine's forwards took, by the tokens in them: sums that only grow, so that two can be subtracted."""

from bisect import bisect_right
from collections.abc import Iterable

from actors.status import StepTime
from actors.step_curve import KNOTS


class StepTimes:
    """One engine's forwards since it started, gathered near the knots of :class:`actors.step_curve.StepCurve`."""

    def __init__(self) -> None:
        self._sums: dict[int, list[float]] = {}  # by knot: forwards, tokens, seconds

    def add(self, num_tokens: int, seconds: float) -> None:
        """Enter one forward; one without tokens says nothing."""
        if num_tokens < 1:
            return
        sums = self._sums.setdefault(KNOTS[bisect_right(KNOTS, num_tokens) - 1], [0, 0, 0.0])
        sums[0] += 1
        sums[1] += num_tokens
        sums[2] += seconds

    def entries(self) -> tuple[StepTime, ...]:
        """Return the sums, an entry for each knot that was visited, in order."""
        return tuple(StepTime(knot, int(n), int(tokens), s) for knot, (n, tokens, s) in sorted(self._sums.items()))


def step_times_between(earlier: Iterable[StepTime], later: Iterable[StepTime]) -> tuple[StepTime, ...]:
    """Return what one engine did from one account to the next; all of ``later`` if it has been restarted meanwhile."""
    before, after = {entry.knot: entry for entry in earlier}, {entry.knot: entry for entry in later}
    if any(knot not in after or after[knot].num_steps < entry.num_steps for knot, entry in before.items()):
        before = {}
    found = []
    for knot, now in after.items():
        then = before.get(knot, StepTime(knot))
        num_steps = now.num_steps - then.num_steps
        if num_steps:
            found.append(StepTime(knot, num_steps, now.num_tokens - then.num_tokens, now.seconds - then.seconds))
    return tuple(found)


def sum_step_times(parts: Iterable[Iterable[StepTime]]) -> tuple[StepTime, ...]:
    """Return the sums of several accounts, as of all workers of a pool."""
    sums: dict[int, StepTime] = {}
    for entry in (entry for part in parts for entry in part):
        known = sums.get(entry.knot, StepTime(entry.knot))
        sums[entry.knot] = StepTime(
            entry.knot,
            known.num_steps + entry.num_steps,
            known.num_tokens + entry.num_tokens,
            known.seconds + entry.seconds,
        )
    return tuple(sums[knot] for knot in sorted(sums))
