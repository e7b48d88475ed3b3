"""What drafting yields in the long run, and so how far a draft should be waited for: a small renewal model.

Between two forwards of a target a sequence is in one of two states. *Turned*: its last check ended with a token that
the draft had not foreseen, so the draft starts again, and the target may wait for ``w`` ids. *Ahead*: all was right,
the draft's own next id included, or it has gone on from the right second choice, so that what it wrote meanwhile is at
hand, and ``n`` ids of it are checked at once.

::

    turned --all w right, and the next--> ahead      reward E(w) after a wait for w ids and a forward
    ahead  --all n right, and the next--> ahead      reward E(n) after a forward
    either --otherwise------------------> turned

A draft either *rests* once it has written what fits into a forward, so that it turns around at once, or runs on, so
that none of its time is lost while all goes well, and the target may wait for more of it; which is better depends on
how often it is right.

Tokens a second are the mean reward over the mean time of this chain; without overlap nothing is ever ahead, and it is
the goodput of synchronous speculation (Leviathan et al. 2023, section 3.3). Sequences of a batch share each forward and
each wait. k = 0 comes out where waiting and wider forwards cost more than they bring.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from actors.step_curve import Seconds

MIN_SECONDS = 1e-6  # below which times are not told apart
MIN_GAIN = 1.02  # drafting must promise this much over plain decoding, or noise decides


@dataclass(frozen=True)
class Conditions:
    """What a plan depends on, besides how good the draft is.

    Attributes:
        num_sequences: that share a forward.
        verify: seconds of a forward of the target by its rows.
        latency: seconds from asking a draft to its answer, less those of its forwards.
        draft_step: seconds of one forward of the draft.
        max_num_draft_tokens: ids that one check may have.
        is_overlapped: whether the draft writes while the target checks.
        foresight: probability that a draft has written on from the target's token where its own was wrong.
    """

    num_sequences: int
    verify: Seconds
    latency: float
    draft_step: float
    max_num_draft_tokens: int
    is_overlapped: bool
    foresight: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The best that can be done for sequences of one acceptance.

    Attributes:
        is_drafted: whether drafting pays at all.
        gain: of the rate over that without drafts.
        num_draft_tokens: ids to ask for, and to wait for, where none are at hand.
        num_ahead: ids that the draft may write during a forward.
        rate: tokens a second of one sequence.
        gains: of each further id at hand, in tokens; what a later id is worth less than an earlier one is its cost.
        num_to_check: of 0, 1, 2 ... ids at hand, how many are worth their rows.
    """

    is_drafted: bool
    gain: float
    num_draft_tokens: int
    num_ahead: int
    rate: float
    gains: tuple[float, ...]
    num_to_check: tuple[int, ...]


@dataclass(frozen=True)
class _Best:
    """The best way found: ids to wait for when turned, to check when ahead, and that the draft may write meanwhile."""

    rate: float
    num_wait: int = 0
    num_ready: int = 0
    num_ahead: int = 0
    lead: float = 0.0  # tokens that being ahead is worth


def _rate(best: _Best) -> float:
    return best.rate


def best_plan(runs: Sequence[float], conditions: Conditions) -> Plan:
    """Return the plan of highest goodput.

    Args:
        runs: for j = 0, 1, ... max_num_draft_tokens + 1 the probability that j drafted tokens in a row are right.
        conditions: the costs.
    """
    most, batch = conditions.max_num_draft_tokens, conditions.num_sequences

    def verify(rows: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.maximum(conditions.verify(rows), MIN_SECONDS)

    q = np.asarray(runs, dtype=np.float64)[: most + 2]
    expected = np.cumsum(q[: most + 1])  # of a check of 0, 1, ... ids
    w = np.arange(most + 1)
    plain = 1.0 / float(verify(batch))
    wait = np.where(w > 0, conditions.latency + w * conditions.draft_step, 0.0)
    num_meanwhile = 1.0 / plain / max(conditions.draft_step, MIN_SECONDS)
    best = _Best(plain)
    if not conditions.is_overlapped or num_meanwhile < 1.0:
        rates = expected / (verify(batch * (1.0 + w)) + wait)
        best = max(best, _Best(float(rates.max()), int(rates.argmax())), key=_rate)
    else:
        next_ahead = q + (1.0 - q) * conditions.foresight
        to_ahead = next_ahead[w + 1]
        for rests in (True, False):
            num_there = int(num_meanwhile + 1e-6) if rests else num_meanwhile
            turn = wait + (0.0 if rests else conditions.draft_step / 2) * (w > 0)
            for n in range(min(most, int(num_there) - 1) + 1 if rests else most + 1):
                more = max(0.0, n + 1 - num_there) * conditions.draft_step
                stays = next_ahead[n + 1]
                ahead = to_ahead / (1.0 + to_ahead - stays)
                seconds = verify(batch * (1.0 + (1.0 - ahead) * w + ahead * n))
                seconds = seconds + turn * (1.0 - ahead**batch) + more * ahead
                rates = ((1.0 - ahead) * expected[w] + ahead * expected[n]) / seconds
                i = int(rates.argmax())
                if rates[i] > best.rate:
                    share = turn[i] * ahead[i] ** (batch - 1) - more
                    lead = (expected[n] - expected[i] + rates[i] * share) / (1.0 - stays + to_ahead[i])
                    num_ahead = int(num_there) if rests else most + 1
                    best = _Best(float(rates[i]), i, n, num_ahead, max(0.0, float(lead)))
    rate, lead = best.rate, best.lead
    next_ahead = q + (1.0 - q) * conditions.foresight
    worth = expected + next_ahead[1 : most + 2] * lead - rate * verify(batch * (1.0 + w))
    num_to_check = _prefix_argmax(worth)
    at_hand = worth[num_to_check]
    return Plan(
        gain=rate / plain,
        is_drafted=rate >= plain * MIN_GAIN and best.num_wait + best.num_ready > 0,
        num_draft_tokens=max(1, best.num_wait),
        num_ahead=min(best.num_ahead, most + 1),
        rate=rate,
        gains=tuple(float(gain) for gain in np.diff(at_hand)),
        num_to_check=tuple(int(n) for n in num_to_check),
    )


def _prefix_argmax(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """For each i the place of the largest of the values up to i."""
    is_new = values >= np.maximum.accumulate(values)
    return np.maximum.accumulate(np.where(is_new, np.arange(len(values)), 0))
