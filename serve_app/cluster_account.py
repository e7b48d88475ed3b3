"""The router's account of the cluster, at most a few seconds old: one for all models that a door serves."""

import asyncio
import time
from collections.abc import Callable

from actors.status import ClusterStats
from cluster.generation_client import GenerationClient
from serve_app.detached import spawn
from serve_app.errors import not_ready


class ClusterAccount:
    """The latest ClusterStats. Used from one event loop.

    Args:
        count_own: sequences that this door has open now.
        clock: seconds.

    Attributes:
        latest: None before the first.
        num_others: sequences of it that came through others.
    """

    def __init__(
        self, client: GenerationClient, count_own: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._count_own = count_own
        self._clock = clock
        self._time = 0.0
        self._refreshing: asyncio.Task[ClusterStats] | None = None
        self.latest: ClusterStats | None = None
        self.num_others = 0

    @property
    def age(self) -> float:
        """Seconds since the latest was given."""
        return self._clock() - self._time

    async def stats(self, max_age: float = 0.0) -> ClusterStats:
        """The cluster's state, at most ``max_age`` seconds old. Raises ApiError 503 where no router answers."""
        if self.latest is None or self.age >= max_age:
            try:
                return await asyncio.shield(self.refresh())
            except Exception as error:
                raise not_ready() from error
        return self.latest

    def refresh(self) -> asyncio.Task[ClusterStats]:
        """Ask the router, once for all who want to know."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = spawn(self._fetch())
            self._refreshing.add_done_callback(_note_failure)
        return self._refreshing

    async def _fetch(self) -> ClusterStats:
        own = self._count_own()
        self.latest = stats = await self._client.stats()
        self._time = self._clock()
        self.num_others = max(0, stats.num_requests - max(own, self._count_own()))
        return stats


def _note_failure(task: asyncio.Task[ClusterStats]) -> None:
    """Take note of an error that nobody may be waiting for; who asks for stats is told by its own exception."""
    if not task.cancelled():
        task.exception()
