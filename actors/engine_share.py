"""One engine under two loops: each sees its own sequences, and all of them run in the same forwards."""

from collections.abc import Sequence

from actors.engine.protocol import TokenEngine
from actors.engine.request import Delta, EngineStats, Request


class EngineShare:
    """Fulfils :class:`actors.engine.protocol.TokenEngine` for one of two loops.

    A forward computes what is ready of both. What it brought of the other's is kept until that one asks.

    Attributes:
        num_step_tokens: tokens that the last step computed, 0 where it only brought what was kept.
    """

    def __init__(self, engine: TokenEngine) -> None:
        self._engine = engine
        self._other = self
        self._ids: set[str] = set()
        self._deltas: list[Delta] = []
        self.num_step_tokens = 0

    @classmethod
    def pair(cls, engine: TokenEngine) -> "tuple[EngineShare, EngineShare]":
        """Return the two shares of an engine that nobody else drives."""
        one, other = cls(engine), cls(engine)
        one._other, other._other = other, one
        return one, other

    def add(self, request: Request) -> None:
        """See :class:`TokenEngine`."""
        self._engine.add(request)
        self._ids.add(request.request_id)

    def propose(self, request_id: str, start: int, token_ids: Sequence[int]) -> None:
        """See :class:`TokenEngine`."""
        self._engine.propose(request_id, start, token_ids)

    def hold(self, request_id: str) -> None:
        """See :class:`TokenEngine`."""
        self._engine.hold(request_id)

    def release(self, request_id: str) -> None:
        """See :class:`TokenEngine`."""
        self._engine.release(request_id)

    def abort(self, request_id: str) -> None:
        """See :class:`TokenEngine`."""
        if request_id in self._ids:
            self._ids.discard(request_id)
            self._engine.abort(request_id)
            self._deltas = [delta for delta in self._deltas if delta.request_id != request_id]

    def open(self, request: Request) -> None:
        """See :class:`TokenEngine`."""
        self._engine.open(request)
        self._ids.add(request.request_id)

    def extend(
        self, request_id: str, start: int, token_ids: Sequence[int], num_new_tokens: int, num_ahead: int = 0
    ) -> None:
        """See :class:`TokenEngine`."""
        self._engine.extend(request_id, start, token_ids, num_new_tokens, num_ahead)
        self._deltas = [delta for delta in self._deltas if delta.request_id != request_id]

    def fork(self, request_id: str, fork_id: str, position: int, num_new_tokens: int) -> int | None:
        """See :class:`TokenEngine`."""
        token_id = self._engine.fork(request_id, fork_id, position, num_new_tokens)
        if token_id is not None:
            self._ids.add(fork_id)
        return token_id

    def step(self) -> list[Delta]:
        """See :class:`TokenEngine`; runs no forward where there is something to bring without."""
        self.num_step_tokens = 0
        if not self._deltas:
            for delta in self._engine.step():
                share = self if delta.request_id in self._ids else self._other
                if delta.request_id in share._ids:
                    share._deltas.append(delta)
            self.num_step_tokens = self._engine.num_step_tokens
        deltas, self._deltas = self._deltas, []
        self._ids.difference_update(delta.request_id for delta in deltas if delta.finish_reason is not None)
        return deltas

    def has_work(self) -> bool:
        """See :class:`TokenEngine`; the other's work counts while there are sequences of its own."""
        return bool(self._deltas) or (bool(self._ids) and self._engine.has_work())

    def num_unfinished(self) -> int:
        """See :class:`TokenEngine`."""
        return self._engine.num_unfinished()

    def stats(self) -> EngineStats:
        """See :class:`TokenEngine`; of the whole engine."""
        return self._engine.stats()
