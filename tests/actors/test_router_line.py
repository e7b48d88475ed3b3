"""A client's way to the router: over a wire where there is one, by calls where not, and from one to the other."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import pytest

from actors.codec import decode, encode
from actors.config import ROUTER_NAME
from actors.dial import Listener
from actors.handshake import new_key
from actors.loop_reader import LoopReader
from actors.messages import Accept, Cancel, Message, Refuse, Submit
from actors.router_line import RouterLine
from actors.wire import Wire, WireError
from tests.actors.fakes import make_request
from tests.actors.wires import HOST

CLIENT = "client-a"


def submission(request_id: str) -> Submit:
    return Submit(client_id=CLIENT, model="demo", request=make_request(request_id))


class Method:
    """A method of an actor's handle."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self.remote = work

    def options(self, **options: Any) -> "Method":
        return self


class Router:
    """What a line needs of a router: the calls of its handle, and an end of the wire."""

    def __init__(self, *, is_direct: bool = True, key: bytes | None = None) -> None:
        self.calls: list[Message] = []
        self.received: list[Message] = []
        self.wires: list[Wire] = []
        self._arrived: asyncio.Queue[Message] = asyncio.Queue()
        self._listener = Listener(ROUTER_NAME, HOST, self._attach)
        self._task = asyncio.ensure_future(self._listener.run())
        endpoint = self._listener.endpoint
        frame = msgspec.msgpack.encode(msgspec.structs.replace(endpoint, key=key or endpoint.key))
        self.reader = LoopReader(lambda peer, message: self._arrived.put_nowait(message))
        self.channel = Method(lambda: _value(frame if is_direct else None))
        self.submit = Method(self._submit)
        self.receive = Method(lambda frame: self.calls.append(decode(frame)))
        self.subscribe = Method(lambda client_id: self._subscribe())
        self.said: asyncio.Queue[Message] = asyncio.Queue()

    async def next(self) -> Message:
        """The next message that comes over a wire."""
        return await asyncio.wait_for(self._arrived.get(), 10)

    def _attach(self, wire: Wire) -> None:
        self.wires.append(wire)
        self.reader.attach(wire)

    def _submit(self, frame: bytes) -> Coroutine[Any, Any, bytes | None]:
        message = decode(frame)
        self.calls.append(message)
        assert isinstance(message, Submit)
        is_full = message.request.request_id == "b"
        return _value(encode(Refuse(request_id="b", error="full")) if is_full else None)

    async def _subscribe(self) -> AsyncIterator[Coroutine[Any, Any, bytes]]:
        while True:
            yield _value(encode(await self.said.get()))


async def _value(value: Any) -> Any:
    return value


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.002)


def test_over_a_wire_requests_are_answered_and_messages_pass() -> None:
    async def run() -> None:
        router, received = Router(), list[Message]()
        line = RouterLine(CLIENT, router)
        listening = asyncio.ensure_future(line.listen(received.append))
        await until(lambda: bool(router.wires))
        assert router.wires[0].peer == CLIENT
        accepted, refused = (asyncio.ensure_future(line.submit(submission(name))) for name in ("a", "b"))
        assert [await router.next(), await router.next()] == [submission("a"), submission("b")]
        refusal = Refuse(request_id="b", error="full", is_overload=True)
        router.wires[0].send(encode(refusal))
        router.wires[0].send(encode(Accept(request_id="a")))
        assert await asyncio.wait_for(accepted, 10) is None
        assert await asyncio.wait_for(refused, 10) == refusal
        late = Refuse(request_id="a", error="the target would not have it")
        router.wires[0].send(encode(late))
        await until(lambda: received == [late])
        line.send(Cancel(request_id="a"))
        assert await router.next() == Cancel(request_id="a")
        assert router.calls == []
        listening.cancel()
        await until(lambda: router.wires[0].is_closed)

    asyncio.run(run())


def test_a_wire_that_breaks_ends_what_waits_and_calls_take_over() -> None:
    async def run() -> None:
        router, received = Router(), list[Message]()
        line = RouterLine(CLIENT, router)
        listening = asyncio.ensure_future(line.listen(received.append))
        await until(lambda: bool(router.wires))
        waiting = asyncio.ensure_future(line.submit(submission("a")))
        await router.next()
        router.reader.detach(router.wires[0])
        with pytest.raises(WireError, match="left"):
            await asyncio.wait_for(waiting, 10)
        await asyncio.wait_for(listening, 10)
        assert await line.submit(submission("a")) is None
        line.send(Cancel(request_id="a"))
        assert router.calls == [submission("a"), Cancel(request_id="a")]

    asyncio.run(run())


@pytest.mark.parametrize("options", [{"is_direct": False}, {"key": new_key()}], ids=["none offered", "wrong key"])
def test_without_a_wire_everything_goes_by_calls(options: dict[str, Any]) -> None:
    async def run() -> None:
        router, received = Router(**options), list[Message]()
        line = RouterLine(CLIENT, router, redial_interval=0.2)
        listening = asyncio.ensure_future(line.listen(received.append))
        router.said.put_nowait(Accept(request_id="x"))
        await until(lambda: received == [Accept(request_id="x")])
        assert await line.submit(submission("a")) is None
        assert await line.submit(submission("b")) == Refuse(request_id="b", error="full")
        assert len(router.calls) == 2
        await asyncio.wait_for(listening, 10)  # to try for a wire again
        assert router.wires == []

    asyncio.run(run())
