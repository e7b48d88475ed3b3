"""Real sockets for tests: pairs of wires, and a thread with an event loop that listens and dials."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from actors.dial import HANDSHAKE_TIMEOUT, Listener
from actors.handshake import Endpoint
from actors.inbox import Inbox
from actors.messages import Message
from actors.wire import Wire

HOST = "127.0.0.1"
T = TypeVar("T")


def make_pair() -> tuple[Wire, socket.socket]:
    """A wire, and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    return Wire(ours, "peer"), theirs


class Background:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def spawn(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 10.0) -> T:
        return self.spawn(work).result(timeout)

    def close(self) -> None:
        async def cancel_all() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@contextmanager
def background() -> Iterator[Background]:
    thread = Background()
    try:
        yield thread
    finally:
        thread.close()


class Station:
    """An actor that listens: who calls it, and what it is sent."""

    def __init__(
        self,
        name: str,
        thread: Background,
        on_wire: Callable[[Wire], None] | None = None,
        timeout: float = HANDSHAKE_TIMEOUT,
    ) -> None:
        self.inbox: Inbox[Message] = Inbox()
        self.wires: list[Wire] = []
        self._listener = Listener(name, HOST, on_wire or self._attach, timeout)
        self._running = thread.spawn(self._listener.run())

    @property
    def endpoint(self) -> Endpoint:
        return self._listener.endpoint

    def die(self) -> None:
        """Stop listening and close every wire, as the end of a process does."""
        self._running.cancel()
        self.inbox.close()

    def receive(self, count: int, timeout: float = 10.0) -> list[Message]:
        """Wait for some messages."""
        received: list[Message] = []
        deadline = time.monotonic() + timeout
        while len(received) < count and time.monotonic() < deadline:
            received += self.inbox.take(0.05)
        return received

    def _attach(self, wire: Wire) -> None:
        self.wires.append(wire)
        self.inbox.attach(wire)


def until(is_so: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait for something to be so."""
    deadline = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.005)


def is_hung_up(sock: socket.socket, timeout: float = 10.0) -> bool:
    """Whether the other end closes, whatever it says before."""
    sock.settimeout(timeout)
    with contextlib.suppress(ConnectionError):
        while sock.recv(4096):
            pass
    return True
