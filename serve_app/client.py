"""What the door needs of the cluster. ``RouterClient`` fulfils it on Ray; tests put a fake in its place."""

from collections.abc import AsyncIterator
from typing import Protocol

from actors.engine.request import Delta, Request
from actors.status import ClusterStats


class GenerationClient(Protocol):
    """Runs requests on a cluster and tells about it. Used from one event loop."""

    def generate(self, request: Request, model: str) -> AsyncIterator[Delta]:
        """Run one sequence; the last delta has a finish_reason. Closing the iterator takes the request back.

        Raises RequestError, also its subclass OverloadedError, before the first delta.
        """

    async def stats(self) -> ClusterStats:
        """The cluster as the router sees it now."""

    async def close(self) -> None:
        """Leave the cluster. What still runs is taken back."""
