"""What drafts have written behind a sequence's confirmed ids, as far as its target knows, and how right it was.

::

    confirmed  ..............|                 all that the target has emitted
    path           |<-- judged -->|<- left ->| a proposal: its first part was right or wrong, the rest may be checked

Noise is shared, so ids that come too late to be checked tell as much about a draft as those that are: an id is right
exactly if it equals what the target emitted at its position.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAX_NUM_PATHS = 16


class Verdict(NamedTuple):
    """How often a draft was right: its first choices, and its second choices where the first was wrong."""

    num_accepted: int = 0
    num_rejected: int = 0
    num_foreseen: int = 0
    num_unforeseen: int = 0

    def __add__(self, other: tuple[int, ...]) -> "Verdict":  # type: ignore[override]
        return Verdict(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class _Path:
    """Ids ahead of the confirmed ones; the one at position ``fork`` is or was the draft's second choice (0: none)."""

    token_ids: tuple[int, ...]
    fork: int


def _fork(path: _Path) -> int:
    return path.fork


class Written:
    """Drafted paths that agree with the confirmed ids of one sequence. No id is judged twice."""

    def __init__(self) -> None:
        self._paths: list[_Path] = []
        self._num_judged = 0  # positions, from the first prompt token on, that were drafted and judged, or passed by
        self._turn = 0  # the last position at which a first choice was wrong

    def ahead(self, position: int) -> tuple[int, ...]:
        """Return the longest path behind ``position`` confirmed ids that is made of first choices from there on."""
        return max((path.token_ids for path in self._paths if path.fork < position), key=len, default=())

    def clear(self) -> None:
        """Forget what was written: another draft takes over."""
        self._paths.clear()

    def add(self, start: int, token_ids: Sequence[int], confirmed: Sequence[int], fork: int = 0) -> Verdict:
        """Take in a proposal for the positions from ``start`` on.

        One that contradicts what is confirmed is dropped, and so is one that says less than is known already.
        """
        overlap = confirmed[start:]
        verdict, is_right = self._judge(start, token_ids, overlap, fork)
        ahead = tuple(token_ids[len(overlap) :])
        if fork < len(confirmed):
            fork = 0
        if is_right and ahead and not any(p.fork == fork and p.token_ids[: len(ahead)] == ahead for p in self._paths):
            kept = [p for p in self._paths if p.fork != fork or ahead[: len(p.token_ids)] != p.token_ids]
            # First choices come first, then the branches that are likely to be needed soonest.
            self._paths = sorted([*kept, _Path(ahead, fork)], key=_fork)[:MAX_NUM_PATHS]
        return verdict

    def advance(self, start: int, new_ids: Sequence[int]) -> Verdict:
        """Enter ``new_ids``, confirmed for the positions from ``start`` on, and drop the paths that differ."""
        end = start + len(new_ids)
        verdict = Verdict()
        kept: list[_Path] = []
        for path in self._paths:  # first choices are judged before second ones
            judged, is_right = self._judge(start, path.token_ids, new_ids, path.fork)
            verdict += judged
            if is_right and len(path.token_ids) > len(new_ids):
                kept.append(_Path(path.token_ids[len(new_ids) :], path.fork if path.fork >= end else 0))
        self._paths = sorted(kept, key=_fork)
        return verdict

    def _judge(self, start: int, drafted: Sequence[int], confirmed: Sequence[int], fork: int) -> tuple[Verdict, bool]:
        """Compare ids of the same positions, and say whether all that both have agree."""
        length = min(len(drafted), len(confirmed))
        num_right = next((i for i in range(length) if drafted[i] != confirmed[i]), length)
        is_right = num_right == length
        end = start + num_right + (not is_right)
        verdict = Verdict()
        if fork and start <= fork == self._turn < end:
            is_foreseen = start + num_right > fork
            verdict = Verdict(num_foreseen=int(is_foreseen), num_unforeseen=int(not is_foreseen))
        first = max(start, self._num_judged, fork + 1)
        if end > first:
            verdict += Verdict(max(0, start + num_right - first), int(not is_right))
            self._num_judged = end
            self._turn = self._turn if is_right else end - 1
        return verdict, is_right
