"""A client's end of the router: submits requests, keeps their journals, and reads all their tokens from one stream.

The journal lies here. When the router dies, its successor knows nothing, and the client submits what is still open
again, with what was emitted so far; nothing is lost and nothing comes twice.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import ray

from actors.client_streams import CLIENT_PREFIX
from actors.codec import decode, encode
from actors.engine.errors import GenerationError, OverloadedError, RequestError, SlipstreamError
from actors.engine.request import Delta, Request
from actors.journal import Gap, Journal
from actors.messages import Cancel, Deltas, Message, Refuse, Submit
from actors.start import get_router
from actors.status import ClusterStats

logger = logging.getLogger(__name__)

BEAT_INTERVAL = 2.0
RETRY_DELAY = 0.25
ROUTER_TIMEOUT = 60.0  # seconds that a request waits for a router that is gone


class _Open:
    """A request that has not ended, and what has come of it that its reader has not taken yet."""

    def __init__(self, request: Request, model: str) -> None:
        self.journal = Journal(request)
        self.model = model
        self.arrived: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        self.is_accepted = False
        self.is_missing = False


class RouterClient:
    """One stream from the router for all requests of this client. Belongs to the event loop that connected it."""

    def __init__(self, client_id: str, router: Any) -> None:
        self.client_id = client_id
        self._router = router
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
                self._send(Cancel(request_id=request.request_id))

    async def stats(self) -> ClusterStats:
        """Return the cluster's state. Raises GenerationError where the router cannot be reached."""
        try:
            return msgspec.msgpack.decode(await self._router.stats.remote(), type=ClusterStats)
        except ray.exceptions.RayError as problem:
            raise GenerationError(f"the router cannot be reached: {type(problem).__name__}") from None

    async def close(self) -> None:
        """Take back what is open and end the stream."""
        for request_id in list(self._open):
            self._send(Cancel(request_id=request_id))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _submit(self, entry: _Open) -> None:
        """Hand a request to the router, over again while the router is away. Raises what it is refused with."""
        deadline = asyncio.get_running_loop().time() + ROUTER_TIMEOUT
        while True:
            message = Submit(client_id=self.client_id, model=entry.model, request=entry.journal.resume())
            try:
                frame = await self._router.submit.remote(encode(message))
            except ray.exceptions.RayError as problem:
                if asyncio.get_running_loop().time() > deadline:
                    raise GenerationError(f"the router cannot be reached: {type(problem).__name__}") from None
                await self._reconnect()
                continue
            refusal = decode(frame) if frame is not None else None
            if not isinstance(refusal, Refuse):
                entry.is_accepted, entry.is_missing = True, False
                return
            # What was accepted once is not turned away because a new router fills up again.
            if not (refusal.is_overload and entry.is_accepted):
                raise _error(refusal)
            await asyncio.sleep(RETRY_DELAY)

    async def _submit_again(self, entry: _Open) -> None:
        try:
            await self._submit(entry)
        except SlipstreamError as error:
            entry.arrived.put_nowait(error)

    def _resubmit(self, entries: list[_Open]) -> None:
        for entry in entries:
            self._spawn(self._submit_again(entry))

    async def _listen(self) -> None:
        """Read the stream for as long as this client lives, over again where it breaks."""
        while True:
            try:
                stream = self._router.subscribe.options(num_returns="streaming").remote(self.client_id)
                async for item in stream:
                    self._receive(decode(await item))
            except ray.exceptions.RayError as problem:
                logger.warning("the stream from the router broke: %s", type(problem).__name__)
            await self._reconnect()
            self._resubmit([entry for entry in self._open.values() if entry.is_accepted])

    async def _beat(self) -> None:
        """Tell the router that this client lives, and find out which requests it has lost."""
        while True:
            await asyncio.sleep(BEAT_INTERVAL)
            accepted = {i: entry for i, entry in self._open.items() if entry.is_accepted}
            try:
                unknown = await self._router.client_alive.remote(self.client_id, list(accepted))
            except ray.exceptions.RayError:
                continue
            lost = [accepted[request_id] for request_id in unknown if request_id in self._open]
            # Twice in a row, or the last tokens may just be on their way.
            self._resubmit([entry for entry in lost if entry.is_missing])
            for request_id, entry in accepted.items():
                entry.is_missing = request_id in unknown

    async def _reconnect(self) -> None:
        await asyncio.sleep(RETRY_DELAY)
        try:
            self._router = await asyncio.to_thread(get_router)
        except SlipstreamError as error:
            logger.debug("%s", error)

    def _receive(self, message: Message) -> None:
        match message:
            case Deltas(items=items):
                for delta in items:
                    self._enter(delta)
            case Refuse(request_id=request_id) if request_id in self._open:
                self._open[request_id].arrived.put_nowait(_error(message))
            case _:
                pass

    def _enter(self, delta: Delta) -> None:
        entry = self._open.get(delta.request_id)
        if entry is None:
            return
        try:
            fresh = entry.journal.accept(delta)
        except Gap as gap:
            logger.warning("tokens were lost on the way: %s", gap)
            self._resubmit([entry])
            return
        if fresh is not None:
            entry.arrived.put_nowait(fresh)

    def _send(self, message: Message) -> None:
        try:
            self._router.receive.options(num_returns=0).remote(encode(message))
        except Exception as error:
            logger.debug("the router cannot be reached: %s", error)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _error(refusal: Refuse) -> RequestError:
    error_class = OverloadedError if refusal.is_overload else RequestError
    return error_class(refusal.error, field=refusal.field, limit=refusal.limit)
