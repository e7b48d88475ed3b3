"""Server-sent events, and what happens when the client hangs up: the generator behind an answer is closed at once."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.response.base import ASGIResponse
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import Receive, Send

from serve_app.errors import client_gone, from_exception

DONE = b"data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

WRITE_INTERVAL = 0.002  # seconds between two writes of a stream

T = TypeVar("T")
Chunks = AsyncGenerator[msgspec.Struct, None]


class EventStream(Response[None]):
    """Streams chunks as events, each sent as it comes, then ``[DONE]``. A failure becomes an event before that."""

    def __init__(self, first: msgspec.Struct, rest: Chunks) -> None:
        super().__init__(None, media_type="text/event-stream", headers=HEADERS)
        self._first = first
        self._rest = rest

    def to_asgi_response(self, *args: Any, **kwargs: Any) -> ASGIResponse:
        """See :meth:`litestar.Response.to_asgi_response`."""
        return _ClosingStream(self._first, self._rest)


class _ClosingStream(ASGIStreamingResponse):
    """Closes the chunks' generator whatever ends the response, so that nothing is left to the garbage collector."""

    __slots__ = ("_rest",)

    def __init__(self, first: msgspec.Struct, rest: Chunks) -> None:
        super().__init__(iterator=_encode(first, rest), media_type="text/event-stream", headers=dict(HEADERS))
        self._rest = rest

    async def send_body(self, send: Send, receive: Receive) -> None:
        """See :class:`litestar.response.streaming.ASGIStreamingResponse`."""
        async with aclosing(self._rest):
            await super().send_body(send, receive)


async def open_stream(request: Request[Any, Any, Any], chunks: Chunks) -> EventStream:
    """Wait for the first chunk, so that what fails before it is answered with its own HTTP status, and stream on."""
    first = await until_disconnect(request, _next(chunks))
    return EventStream(first, chunks)


async def until_disconnect(request: Request[Any, Any, Any], work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``, but cancel it when the client hangs up; raises ApiError 499 then. The body must be read."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise client_gone()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _next(chunks: Chunks) -> msgspec.Struct:
    return await anext(chunks)


async def _encode(first: msgspec.Struct, rest: Chunks) -> AsyncGenerator[bytes, None]:
    """Events as bytes, the first one at once; those that are ready together leave together.

    After a write the next one waits for :data:`WRITE_INTERVAL`, which only streams quicker than that notice: for them
    writes are most of what a token costs.
    """
    loop = asyncio.get_running_loop()
    yield _event(first)
    written_at = loop.time()
    ready: list[bytes] = []
    arrived = asyncio.Event()

    async def gather() -> None:
        # Runs on for as long as there are chunks; it stops to wait, and so lets them be sent, when there are none.
        try:
            async for chunk in rest:
                ready.append(_event(chunk))
                arrived.set()
        except Exception as error:
            ready.append(_event(from_exception(error).body))
        ready.append(DONE)
        arrived.set()

    task = asyncio.ensure_future(gather())
    try:
        while not task.done() or ready:
            await arrived.wait()
            pause = written_at + WRITE_INTERVAL - loop.time()
            if pause > 0 and not task.done():
                await asyncio.wait((task,), timeout=pause)
            arrived.clear()
            events = b"".join(ready)
            ready.clear()
            yield events
            written_at = loop.time()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _event(chunk: msgspec.Struct) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
