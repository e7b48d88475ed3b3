"""Requests that are run on a cluster to be measured: what came of each and when."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from actors.engine.errors import GenerationError
from actors.engine.request import Delta, FinishReason, Request, TokenLogprobs
from actors.request_stats import RequestStats, RequestTally
from actors.status import ClusterStats
from cluster.background import BackgroundLoop
from cluster.generation_client import GenerationClient, run_requests

SETTLE_MARGIN = 0.02  # seconds between a report's sending and its being counted
SETTLE_TIMEOUT = 5.0


@dataclass(frozen=True)
class Run:
    """One request that ran to its end.

    Attributes:
        token_ids: what it emitted.
        arrivals: (seconds since it was handed over, tokens) of each delta with tokens.
        logprobs: an entry a token, where asked for.
        stats: what drafting did for it.
        num_full: drafts that were right to their end.
    """

    token_ids: tuple[int, ...]
    arrivals: tuple[tuple[float, int], ...]
    logprobs: tuple[TokenLogprobs, ...]
    stats: RequestStats
    num_full: int

    @property
    def first_time(self) -> float:
        """Seconds to the first token, the reading of the prompt included."""
        return self.arrivals[0][0] if self.arrivals else 0.0

    @property
    def last_time(self) -> float:
        """Seconds to the last token."""
        return self.arrivals[-1][0] if self.arrivals else 0.0

    @property
    def num_decoded(self) -> int:
        """Tokens behind the first delta: those that decoding alone brought."""
        return sum(count for _, count in self.arrivals[1:])

    @property
    def decode_seconds(self) -> float:
        """Seconds in which they came."""
        return self.last_time - self.first_time


@dataclass
class _Recorder:
    """Takes down the deltas of one request."""

    token_ids: list[int] = field(default_factory=list)
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    tally: RequestTally = field(default_factory=RequestTally)

    def add(self, delta: Delta, elapsed: float) -> None:
        """Take in a delta. Raises GenerationError where the sequence failed."""
        if delta.finish_reason in (FinishReason.ERROR, FinishReason.ABORT):
            raise GenerationError(delta.error or "generation failed")
        self.tally.add(delta)
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs or ()
        if delta.token_ids:
            self.arrivals.append((elapsed, len(delta.token_ids)))

    def run(self) -> Run:
        """What came of the request."""
        return Run(
            tuple(self.token_ids),
            tuple(self.arrivals),
            tuple(self.logprobs),
            self.tally.stats(),
            self.tally.num_full,
        )


class _Recording(GenerationClient):
    """A client that takes down what comes for each request."""

    def __init__(self, client: GenerationClient, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self.recorders: dict[str, _Recorder] = {}

    async def generate(self, request: Request, model: str) -> AsyncIterator[Delta]:
        """See :class:`cluster.generation_client.GenerationClient`."""
        recorder = self.recorders[request.request_id] = _Recorder()
        begun = self._clock()
        async for delta in self._client.generate(request, model):
            recorder.add(delta, self._clock() - begun)
            yield delta

    async def stats(self) -> ClusterStats:
        """See :class:`cluster.generation_client.GenerationClient`."""
        return await self._client.stats()

    async def close(self) -> None:
        """See :class:`cluster.generation_client.GenerationClient`."""
        await self._client.close()


class Runner:
    """Runs requests on a cluster, for code that is not asynchronous.

    Args:
        connect: makes the client; awaited on this object's own event loop.
        model: the served model's name.
        clock: seconds; also an attribute.
        sleep: lets so many of them pass.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[GenerationClient]],
        model: str,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._model = model
        self.clock = clock
        self._sleep = sleep
        self._loop = BackgroundLoop("slipstream-bench")
        try:
            self._client = self._loop.call(_awaited(connect()))
        except BaseException:
            self._loop.close()
            raise

    def run(self, requests: Sequence[Request], concurrency: int = 1) -> list[Run]:
        """Run requests, ``concurrency`` at a time. Raises RequestError and GenerationError as the first one does."""
        client = _Recording(self._client, self.clock)
        self._loop.call(run_requests(client, requests, self._model, concurrency, lambda _: None))
        return [client.recorders[request.request_id].run() for request in requests]

    def stats(self) -> ClusterStats:
        """The cluster as the router sees it now."""
        return self._loop.call(self._client.stats())

    def settled_stats(self) -> ClusterStats:
        """The cluster once every worker that lives has reported what it did until now."""
        asked = self.clock()
        while True:
            stats = self.stats()
            elapsed = self.clock() - asked
            latest = max((worker.last_report for worker in stats.workers if worker.is_alive), default=0.0)
            if latest < elapsed - SETTLE_MARGIN or elapsed > SETTLE_TIMEOUT:
                return stats
            self._sleep(SETTLE_MARGIN)

    def close(self) -> None:
        """Leave the cluster."""
        try:
            self._loop.call(self._client.close())
        finally:
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _awaited(awaitable: Awaitable[GenerationClient]) -> GenerationClient:
    return await awaitable
