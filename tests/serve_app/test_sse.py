"""Events: the first at once, those that are ready together in one piece, and nothing left running behind them."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from litestar.types import Message

from serve_app.sse import DONE, EventStream

pytestmark = pytest.mark.anyio


class Chunk(msgspec.Struct, frozen=True):
    n: int


class Source:
    """Gives chunks as a script says: numbers of them that are ready together, with a pause after each."""

    def __init__(self, *bursts: int, error: Exception | None = None, pause: float = 0.01) -> None:
        self._bursts = bursts
        self._error = error
        self._pause = pause
        self.is_closed = False

    async def __aiter__(self) -> AsyncGenerator[msgspec.Struct, None]:
        number = 0
        try:
            for burst in self._bursts:
                for _ in range(burst):
                    number += 1
                    yield Chunk(number)
                await asyncio.sleep(self._pause)
            if self._error is not None:
                raise self._error
        finally:
            self.is_closed = True


async def bodies(source: Source, num_wanted: int | None = None) -> list[bytes]:
    """What is sent; the client hangs up after ``num_wanted`` messages."""
    sent: list[bytes] = []
    gone = asyncio.Event()

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            sent.append(message["body"])
            if len(sent) == num_wanted or not message["more_body"]:
                gone.set()

    response = EventStream(Chunk(0), source.__aiter__()).to_asgi_response()
    async with asyncio.timeout(10):
        await response.send_body(send, receive)
    return [body for body in sent if body]


def events(*numbers: int) -> bytes:
    return b"".join(b'data: {"n":%d}\n\n' % number for number in numbers)


async def test_what_is_ready_together_leaves_together() -> None:
    source = Source(1, 3, 2)
    assert await bodies(source) == [events(0), events(1), events(2, 3, 4), events(5, 6), DONE]
    assert source.is_closed


async def test_a_stream_that_is_quicker_than_writes_pay_off_is_written_in_pieces() -> None:
    sent = await bodies(Source(*[1] * 500, pause=0.0))
    assert sent[0] == events(0)
    assert b"".join(sent) == events(*range(501)) + DONE
    assert len(sent) < 100


async def test_a_failure_is_an_event_before_the_end() -> None:
    sent = await bodies(Source(2, error=NotImplementedError("no beams")))
    assert sent[:2] == [events(0), events(1, 2)]
    assert sent[-1].startswith(b'data: {"error":{"message":"no beams"') and sent[-1].endswith(DONE)


async def test_who_hangs_up_closes_the_source() -> None:
    source = Source(*[1] * 1000)
    assert len(await bodies(source, num_wanted=5)) < 10
    assert source.is_closed
