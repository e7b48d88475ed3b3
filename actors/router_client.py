"""A client's end of the router: submits requests, keeps their journals, and reads all their tokens from one stream.

The journal lies here. When the router dies, its successor knows nothing, and the client submits what is still open
again, with what was emitted so far; nothing is lost and nothing comes twice.
"""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import ray

from actors.client_streams import CLIENT_PREFIX
from actors.engine.errors import GenerationError, OverloadedError, RequestError, SlipstreamError
from actors.engine.request import Delta, Request
from actors.journal import Contradiction, Gap, Journal
from actors.messages import Cancel, Deltas, Message, Refuse, Submit
from actors.native_client import Result, run_native
from actors.router_line import LINE_ERRORS, RouterLine
from actors.start import get_router
from actors.status import ClusterStats

if TYPE_CHECKING:
    from actors.engine.declared_call import DeclaredCall
    from actors.engine.native_generation import NativeCall
    from actors.native_job import Tokens

logger = logging.getLogger(__name__)

T = TypeVar("T")

BEAT_INTERVAL = 2.0
RETRY_DELAY = 0.05
ROUTER_TIMEOUT = 60.0  # seconds that a new request, or a question, waits for a router that is gone
STREAM_TIMEOUT = 600.0  # ... and a request that has been accepted


class _Open:
    """A request that has not ended, and what has come of it that its reader has not taken yet."""

    def __init__(self, request: Request, model: str) -> None:
        self.journal = Journal(request)
        self.model = model
        self.arrived: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        self.started_at = time.monotonic()
        self.target_id = ""
        self.is_accepted = False
        self.is_missing = False
        self.is_being_submitted = False

    def submission(self, client_id: str) -> Submit:
        """Return the message that makes any router go on with the request."""
        return Submit(
            client_id=client_id,
            model=self.model,
            request=self.journal.resume(elapsed=time.monotonic() - self.started_at),
            is_again=self.is_accepted,
            target_id=self.target_id,
        )


class RouterClient:
    """One stream from the router for all requests of this client. Belongs to the event loop that connected it."""

    def __init__(self, client_id: str, router: Any) -> None:
        self.client_id = client_id
        self._line = RouterLine(client_id, router)
        self._open: dict[str, _Open] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(cls, client_id: str | None = None) -> "RouterClient":
        """Connect to the router of this Ray. Raises SlipstreamError where none runs."""
        router = await asyncio.to_thread(get_router)
        client = cls(CLIENT_PREFIX + (client_id or uuid.uuid4().hex), router)
        client._spawn(client._listen())
        client._spawn(client._beat())
        return client

    async def generate(self, request: Request, model: str) -> AsyncIterator[Delta]:
        """Run a request on the pool ``model`` and yield its deltas; the last one carries the finish reason.

        Closing the iterator early frees the request's place on its target.

        Raises:
            OverloadedError: as many requests are in flight as the cluster takes.
            RequestError: the request is refused; ``field`` says why (``model`` where there is no such model).
            GenerationError: the router cannot be reached.
        """
        if request.request_id in self._open:
            raise RequestError(f"request id {request.request_id!r} is in use", field="request_id")
        entry = _Open(request, model)
        self._open[request.request_id] = entry
        try:
            await self._submit(entry)
            is_finished = False
            while not is_finished:
                item = await entry.arrived.get()
                if isinstance(item, Exception):
                    raise item
                is_finished = item.finish_reason is not None
                yield item
        finally:
            self._open.pop(request.request_id, None)
            if not entry.journal.is_finished:
                self._line.send(Cancel(request_id=request.request_id))

    def run_native(self, call: "NativeCall | DeclaredCall", model: str) -> "AsyncIterator[Tokens | Result]":
        """Run transformers' own ``generate`` on a target; see :func:`actors.native_client.run_native`."""
        return run_native(call, model, self.stats)

    async def stats(self) -> ClusterStats:
        """Return the cluster's state. Raises GenerationError where the router cannot be reached."""
        return await self._ask(self._line.stats, lambda: ROUTER_TIMEOUT)

    async def close(self) -> None:
        """Take back what is open and end the stream."""
        for request_id in list(self._open):
            self._line.send(Cancel(request_id=request_id))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, ask: Callable[[], Awaitable[T]], timeout: Callable[[], float]) -> T:
        """Call the router, over again while it is away. Raises GenerationError when ``timeout()`` seconds are over."""
        started_at = time.monotonic()
        while True:
            try:
                return await ask()
            except LINE_ERRORS as problem:
                if time.monotonic() - started_at > timeout():
                    raise GenerationError(f"the router cannot be reached: {type(problem).__name__}") from None
                await self._reconnect(problem)

    async def _submit(self, entry: _Open) -> None:
        """Hand a request to the router. Raises what it is refused with."""
        entry.is_being_submitted = True
        try:
            refusal = await self._ask(
                lambda: self._line.submit(entry.submission(self.client_id)),
                lambda: STREAM_TIMEOUT if entry.is_accepted else ROUTER_TIMEOUT,
            )
        finally:
            entry.is_being_submitted = False
        if refusal is not None:
            raise _error(refusal)
        entry.is_accepted, entry.is_missing = True, False

    async def _submit_again(self, entry: _Open) -> None:
        try:
            await self._submit(entry)
        except SlipstreamError as error:
            entry.arrived.put_nowait(error)
        if self._open.get(entry.journal.request.request_id) is not entry:
            self._line.send(Cancel(request_id=entry.journal.request.request_id))  # its reader has left in the meantime

    def _resubmit(self, entries: Iterable[_Open]) -> None:
        """Submit requests again that were accepted; the router then sends what of their tokens is missing here."""
        for entry in entries:
            if entry.is_accepted and not entry.is_being_submitted:
                entry.is_being_submitted = True
                self._spawn(self._submit_again(entry))

    async def _listen(self) -> None:
        """Read the stream for as long as this client lives, over again where it breaks."""
        while True:
            await self._ask(lambda: self._line.beat(self._open), lambda: math.inf)
            self._resubmit(self._open.values())
            broken: Exception | None = None
            try:
                await self._line.listen(self._receive)
            except ray.exceptions.RayError as problem:
                logger.warning("the stream from the router broke: %s", type(problem).__name__)
                broken = problem
            await self._reconnect(broken)

    async def _beat(self) -> None:
        """Tell the router that this client lives, and find out which requests it has lost."""
        while True:
            await asyncio.sleep(BEAT_INTERVAL)
            named = dict(self._open)
            try:
                unknown = await self._line.beat(named)
            except ray.exceptions.RayError:
                continue
            lost = {i: entry for i in unknown if (entry := named[i]) is self._open.get(i)}
            # Twice in a row, or the last tokens may just be on their way.
            self._resubmit([entry for entry in lost.values() if entry.is_missing])
            for request_id, entry in named.items():
                entry.is_missing = request_id in lost

    async def _reconnect(self, problem: Exception | None) -> None:
        """Wait a moment, and look for another router where this one will not come back."""
        await asyncio.sleep(RETRY_DELAY)
        if isinstance(problem, ray.exceptions.RayError) and not isinstance(
            problem, ray.exceptions.ActorUnavailableError
        ):
            await self._line.find_router()

    def _receive(self, message: Message) -> None:
        match message:
            case Deltas(worker_id=worker_id, items=items):
                for delta in items:
                    self._enter(delta, worker_id)
            case Refuse(request_id=request_id) if request_id in self._open:
                self._open[request_id].arrived.put_nowait(_error(message))
            case _:
                pass

    def _enter(self, delta: Delta, target_id: str) -> None:
        entry = self._open.get(delta.request_id)
        if entry is None:
            return
        try:
            fresh = entry.journal.accept(delta)
        except (Gap, Contradiction) as problem:
            logger.warning("the router has lost the thread: %s", problem)
            self._resubmit([entry])
            return
        entry.target_id = target_id
        if fresh is not None:
            entry.arrived.put_nowait(fresh)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _error(refusal: Refuse) -> RequestError:
    error_class = OverloadedError if refusal.is_overload else RequestError
    return error_class(refusal.error, field=refusal.field, limit=refusal.limit)
