"""Whether a target waits for what its drafts are about to send, or runs with what it has."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Prospect:
    """Drafted ids that one sequence will soon have: ``gains`` in tokens, the first at ``time``, then one a ``step``.

    Those of the first message, ``num_first``, come together.
    """

    time: float
    step: float
    num_first: int
    gains: tuple[float, ...]


def worthwhile_wait(prospects: Iterable[Prospect], rate: float, now: float, max_wait: float) -> float:
    """Return the time until which a whole batch should wait, ``now`` where it should run at once.

    Waiting is worth it while what comes brings more than the batch yields in the same time in the long run, ``rate``
    tokens a second (the marginal value theorem; Charnov 1976).
    """
    events: dict[float, float] = {}
    for prospect in prospects:
        time = max(prospect.time, now)
        for index, gain in enumerate(prospect.gains):
            at = time + max(0, index + 1 - prospect.num_first) * prospect.step
            if at - now > max_wait:
                break
            events[at] = events.get(at, 0.0) + gain
    best, best_time, total = 0.0, now, 0.0
    for at in sorted(events):
        total += events[at]
        surplus = total - rate * (at - now)
        if surplus > best + 1e-12:
            best, best_time = surplus, at
    return best_time
