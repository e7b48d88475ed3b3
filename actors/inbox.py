"""Where a thread sleeps that waits for two kinds of things: what other threads put in, and what wires bring."""

import contextlib
import logging
import os
import queue
import select
from typing import Generic, TypeVar

import msgspec

from actors.codec import decode
from actors.messages import Message
from actors.wire import Wire, WireError

logger = logging.getLogger(__name__)

Work = TypeVar("Work")

MAX_SLEEP = 3600.0  # seconds; longer ones are cut into pieces


class Inbox(Generic[Work]):
    """One owner takes, everyone may put and attach. The owner's thread reads the wires itself.

    A thread of its own for reading would take the interpreter's lock from a running forward for each message, and cost
    a change of threads each time; so wires are read between forwards, and by whoever wants to know at once: the owner,
    while it sleeps here.
    """

    def __init__(self) -> None:
        self._works: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._wires: dict[int, Wire] = {}
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)

    def put(self, work: Work) -> None:
        """Put something in and wake the owner. From any thread; never blocks."""
        self._works.put(work)
        os.eventfd_write(self._bell, 1)

    def attach(self, wire: Wire) -> None:
        """Read a wire from now on, until it breaks. From any thread."""
        descriptor = wire.fileno()
        self._wires[descriptor] = wire
        wire.on_backlog = lambda is_waiting: self._epoll.modify(
            descriptor, select.EPOLLIN | (select.EPOLLOUT if is_waiting else 0)
        )
        self._epoll.register(descriptor, select.EPOLLIN)

    def take(self, timeout: float = 0.0) -> list[Work | Message]:
        """Return all that has come in, waiting up to ``timeout`` seconds where there is nothing."""
        taken: list[Work | Message] = []
        for descriptor, events in self._epoll.poll(min(max(timeout, 0.0), MAX_SLEEP)):
            if descriptor == self._bell:
                os.eventfd_read(self._bell)
            elif (wire := self._wires.get(descriptor)) is not None:
                taken += self._read(wire, events)
        with contextlib.suppress(queue.Empty):
            while True:
                taken.append(self._works.get_nowait())
        return taken

    def close(self) -> None:
        """Close all wires. For the owner, at its end."""
        for wire in list(self._wires.values()):
            self._detach(wire)

    def _read(self, wire: Wire, events: int) -> list[Message]:
        messages: list[Message] = []
        try:
            if events & select.EPOLLOUT:
                wire.flush()
            if events & ~select.EPOLLOUT:
                messages.extend(map(decode, wire.receive()))
        except (WireError, msgspec.MsgspecError) as problem:
            logger.info("a wire is given up: %s", problem)
            self._detach(wire)
        return messages

    def _detach(self, wire: Wire) -> None:
        del self._wires[wire.fileno()]
        wire.close()  # which takes the descriptor out of epoll as well, at a moment at which no other thread sends
