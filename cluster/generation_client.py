"""What the Python face needs of a running cluster. ``RouterClient`` fulfils it on Ray; tests put a fake there."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from actors.engine.request import Delta, Request
from actors.status import ClusterStats

if TYPE_CHECKING:
    from actors.engine.declared_call import DeclaredCall
    from actors.engine.native_generation import NativeCall
    from actors.native_client import Result
    from actors.native_job import Tokens

Emit = Callable[[tuple[int, Delta]], None]
"""Takes a delta and the index of the request that it belongs to."""


class GenerationClient(Protocol):
    """Runs requests on a cluster and tells about it. Used from one event loop."""

    def generate(self, request: Request, model: str) -> AsyncIterator[Delta]:
        """Run one sequence; the last delta has a finish_reason. Closing the iterator takes the request back.

        Raises RequestError before the first delta.
        """

    async def stats(self) -> ClusterStats:
        """The cluster as the router sees it now."""

    async def close(self) -> None:
        """Leave the cluster. What still runs is taken back."""


class ModelClient(GenerationClient, Protocol):
    """One that also runs whole calls of transformers' own ``generate``."""

    def run_native(self, call: "NativeCall | DeclaredCall", model: str) -> "AsyncIterator[Tokens | Result]":
        """Run a call on a target; the last item is its Result. Raises what ``generate`` raised."""


class RunningCluster(Protocol):
    """What holds the actors, or the connection to them: :class:`cluster.session.Cluster`."""

    def shutdown(self) -> None:
        """End what it started; the actors of others stay up."""


async def run_requests(
    client: GenerationClient, requests: Iterable[Request], model: str, max_num_requests: int, emit: Emit
) -> None:
    """Run requests side by side, at most ``max_num_requests`` at once; the first error ends them all and is raised."""
    slots = asyncio.Semaphore(max_num_requests)

    async def run(index: int, request: Request) -> None:
        async with slots:
            async for delta in client.generate(request, model):
                emit((index, delta))

    tasks = [asyncio.create_task(run(index, request)) for index, request in enumerate(requests)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def connect_router() -> ModelClient:
    """A client of the cluster that runs on this Ray. Raises SlipstreamError where none runs."""
    from actors.router_client import RouterClient

    client: ModelClient = await RouterClient.connect()
    return client
