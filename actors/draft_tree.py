"""What a draft has written for one sequence: a trunk of first choices, and branches that begin with a second choice.

::

    confirmed ...|  a   b   c   d      trunk: as if all were right
                 |  x   .   .          branch at the first position: as if the target had x in place of a
                 |      y   .          branch at the second

When the target confirms what a branch began with, that branch is the trunk from then on, with all that it has written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from actors.engine.protocol import TokenEngine

_MARK = "\x1f"  # between a request's id and the number of a branch; never part of an id that was given


@dataclass(frozen=True)
class _Branch:
    engine_id: str
    token_id: int


def request_of(engine_id: str) -> str:
    """Return the request that a draft sequence of the engine belongs to."""
    return engine_id.partition(_MARK)[0]


class DraftTree:
    """The draft sequences in an engine that belong to one request.

    Attributes:
        trunk_id: the one that all others hang on.
    """

    def __init__(self, engine: TokenEngine, request_id: str) -> None:
        self._engine = engine
        self._request_id = request_id
        self.trunk_id = request_id
        self._start = 0
        self._written: tuple[int, ...] = ()  # ids of the trunk from _start on
        self._branches: dict[int, _Branch] = {}  # by position
        self._tried = 0  # positions below it have branched, or cannot
        self._count = 0

    @property
    def num_branches(self) -> int:
        """Branches beside the trunk."""
        return len(self._branches)

    def position(self, engine_id: str) -> int:
        """Return where a branch begins."""
        return next((at for at, branch in self._branches.items() if branch.engine_id == engine_id), 0)

    def grow(self, start: int, token_ids: tuple[int, ...]) -> None:
        """Note what the trunk has written from ``start`` on."""
        self._start, self._written = start, token_ids

    def confirm(self, start: int, token_ids: Sequence[int]) -> None:
        """Enter confirmed ids from ``start`` on: the branch that foresaw them becomes the trunk, the others end."""
        news = token_ids[max(0, self._start - start) :] if start <= self._start else ()
        pairs = zip(self._written, news, strict=False)
        turn = next((i for i, (own, confirmed) in enumerate(pairs) if own != confirmed), None)
        branch = self._branches.get(self._start + turn) if turn is not None else None
        if branch is not None and turn is not None and branch.token_id == news[turn]:
            del self._branches[self._start + turn]
            self._engine.abort(self.trunk_id)
            self.trunk_id = branch.engine_id
        for other in self._branches.values():
            self._engine.abort(other.engine_id)
        self._branches.clear()
        end = start + len(token_ids)
        agrees = turn is None and self._start <= end
        self._written = self._written[end - self._start :] if agrees else ()
        self._start = self._tried = end

    def can_branch(self, num_positions: int) -> bool:
        """Whether there are positions among the first that are not confirmed at which it was not tried yet."""
        return self._tried < self._start + min(num_positions, len(self._written))

    def branch(self, num_positions: int, num_wanted: int, most: int) -> int:
        """Branch at the first positions that are not confirmed, ``most`` times at the most; how often it was done.

        A branch runs as long as the trunk does on its way to ``num_wanted`` ids, so that the draft is at rest, and
        turns around at once, when the target is expected to know more.
        """
        end = min(self._start + num_positions, self._start + len(self._written))
        before = len(self._branches)
        num_ahead = num_wanted - len(self._written)
        while num_ahead > 0 and self._tried < end and len(self._branches) - before < most:
            self._count += 1
            engine_id = f"{self._request_id}{_MARK}{self._count}"
            token_id = self._engine.fork(self.trunk_id, engine_id, self._tried, num_ahead)
            if token_id is not None:
                self._branches[self._tried] = _Branch(engine_id, token_id)
            self._tried += 1
        return len(self._branches) - before

    def drop(self, engine_id: str) -> None:
        """Forget a branch that has failed."""
        self._branches = {at: branch for at, branch in self._branches.items() if branch.engine_id != engine_id}

    def close(self) -> list[str]:
        """End all of it; the ids that its sequences had in the engine."""
        engine_ids = [self.trunk_id, *(branch.engine_id for branch in self._branches.values())]
        for engine_id in engine_ids:
            self._engine.abort(engine_id)
        return engine_ids
