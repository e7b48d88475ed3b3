"""What one ingress has in hand, and whether more may come in: decided from counts, before anything is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from actors.engine.errors import OverloadedError


class Admission:
    """Counts requests and their sequences, and refuses what goes beyond the bounds. Used from one event loop.

    ::

        num_requests  |<-- being read, tokenized, planned -->|<-- running -->|
        num_open      |<------------ one each -------------->|<- sequences ->|

    Args:
        max_num_requests: requests in hand at a time.
        max_num_calls: those among them that transformers' own code runs.
        room: sequences that the cluster takes from this ingress now, None where that is not known. It may refuse by
            itself all the same; this is only the quicker answer.
    """

    def __init__(self, max_num_requests: int, max_num_calls: int, room: Callable[[], int | None]) -> None:
        self._max_num_requests = max_num_requests
        self._room = room
        self._num_runs = 0
        self._max_num_calls = max_num_calls
        self._num_calls = 0
        self.num_requests = 0
        self.num_sequences = 0

    @property
    def num_open(self) -> int:
        """Sequences that run, and one for each request that has yet to say how many it brings."""
        return self.num_sequences + max(0, self.num_requests - self._num_runs)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold a request's place. Raises OverloadedError where there is none."""
        if self.num_requests >= self._max_num_requests:
            raise _overloaded(self.num_requests, "requests", f"max_num_requests={self._max_num_requests}")
        room = self._room()
        if room is not None and self.num_open >= room:
            raise _overloaded(self.num_open, "sequences", str(room))
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    @contextmanager
    def sequences(self, count: int) -> Iterator[None]:
        """Hold the places of a request's sequences, all or none. Raises OverloadedError where there are too few."""
        room = self._room()
        if room is not None and self.num_sequences + count > room:
            raise _overloaded(self.num_sequences, "sequences", str(room))
        self.num_sequences += count
        self._num_runs += 1
        try:
            yield
        finally:
            self.num_sequences -= count
            self._num_runs -= 1

    @contextmanager
    def call(self, count: int) -> Iterator[None]:
        """Hold the place of a call of transformers' own code that brings so many sequences. Raises OverloadedError."""
        if self._num_calls >= self._max_num_calls:
            what = "requests that transformers' own code runs"
            raise _overloaded(self._num_calls, what, f"max_num_native_requests={self._max_num_calls}")
        with self.sequences(count):
            self._num_calls += 1
            try:
                yield
            finally:
                self._num_calls -= 1


def _overloaded(count: int, what: str, limit: str) -> OverloadedError:
    return OverloadedError(f"{count} {what} are in flight, and the limit is {limit}; try again later", limit=limit)
