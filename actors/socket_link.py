"""A link over direct connections, with another link behind it for peers that have none."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from actors.codec import encode
from actors.dial import dial
from actors.handshake import Endpoint, HandshakeError
from actors.link import Link
from actors.messages import Message
from actors.wire import MAX_FRAME_SIZE, Reader, Wire, WireError

logger = logging.getLogger(__name__)

MIN_BACKOFF, MAX_BACKOFF = 0.1, 30.0  # seconds between two attempts to dial a peer
MAX_NUM_WAITING = 256  # messages kept for a peer that is being dialed for the first time

LookUp = Callable[[str], Coroutine[Any, Any, Endpoint | None]]
Spawn = Callable[[Coroutine[Any, Any, None]], object]


@dataclass
class _Call:
    """Attempts to reach one peer: messages wait for the first, those during later ones go another way."""

    waiting: deque[Message] | None = field(default_factory=lambda: deque(maxlen=MAX_NUM_WAITING))
    is_dialing: bool = False
    backoff: float = MIN_BACKOFF
    retry_at: float = 0.0


class SocketLink:
    """Sends over the wire to a peer where there is one, and over ``fallback`` where there is none.

    Messages of one peer keep their order while its way stays the same. When it changes, one that went the slower way
    may come behind one that was sent after it, which harms as little as its loss (DESIGN, rule 4).

    Args:
        name: this actor's.
        fallback: the link that always works.
        reader: who reads the wires.
        look_up: says where a peer listens, None where it does not; asked for peers that ``can_dial`` holds for.
        spawn: runs a coroutine on the event loop that dials. From any thread that sends.
    """

    def __init__(
        self,
        name: str,
        fallback: Link,
        reader: Reader,
        *,
        look_up: LookUp | None = None,
        can_dial: Callable[[str], bool] = lambda peer: True,
        spawn: Spawn | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._fallback = fallback
        self._reader = reader
        self._look_up = look_up
        self._can_dial = can_dial
        self._spawn = spawn
        self._clock = clock
        self._lock = threading.Lock()
        self._wires: dict[str, Wire] = {}
        self._calls: dict[str, _Call] = {}

    def send(self, peer: str, message: Message) -> None:
        """Send one message to the actor named ``peer``. Never blocks and never raises; loss is allowed."""
        wire = self._wires.get(peer)
        if wire is not None and _try(wire, message):
            return
        if not self._waits(peer, message):
            self._fallback.send(peer, message)

    def is_connected(self, peer: str) -> bool:
        """Whether there is a wire to a peer."""
        return peer in self._wires

    def accept(self, wire: Wire) -> None:
        """Use a wire from now on, in place of the one to the same peer if there is one."""
        wire.on_closed = lambda: self._forget(wire)
        self._reader.attach(wire)
        with self._lock:
            old = self._wires.get(wire.peer)
            call = self._calls.get(wire.peer)
            if call is not None:
                self._send_waiting(wire.peer, call, wire)
            if not wire.is_closed:
                self._wires[wire.peer] = wire
        if old is not None:
            old.abandon()

    def _waits(self, peer: str, message: Message) -> bool:
        """Whether a message waits for a wire to its peer, which is dialed if it is time."""
        if self._look_up is None or self._spawn is None or not self._can_dial(peer):
            return False
        with self._lock:
            call = self._calls.setdefault(peer, _Call())
            is_due = not call.is_dialing and self._clock() >= call.retry_at and peer not in self._wires
            if is_due:
                call.is_dialing = True
            waits = call.is_dialing and call.waiting is not None
            if waits and call.waiting is not None:
                call.waiting.append(message)
        if is_due:
            self._spawn(self._dial(peer, call))
        return waits

    async def _dial(self, peer: str, call: _Call) -> None:
        assert self._look_up is not None
        wire: Wire | None = None
        why: object = "it does not listen"
        try:
            endpoint = await self._look_up(peer)
            if endpoint is not None:
                wire = await dial(endpoint, self._name, peer)
        except (HandshakeError, OSError) as problem:
            why = problem or type(problem).__name__
        except Exception as problem:  # whatever looking up may raise: a call that never ends is never made again
            why = problem
        if wire is not None:
            self.accept(wire)
        with self._lock:
            if wire is None:
                logger.info("%s cannot reach %s directly: %s", self._name, peer, why)
                call.retry_at = self._clock() + call.backoff
                call.backoff = min(2 * call.backoff, MAX_BACKOFF)
                self._send_waiting(peer, call, None)
            else:
                call.backoff, call.retry_at = MIN_BACKOFF, 0.0
            call.is_dialing = False

    def _send_waiting(self, peer: str, call: _Call, wire: Wire | None) -> None:
        """Let what has waited for the first attempt go, before anything newer: the lock is held."""
        waiting, call.waiting = call.waiting or (), None
        for message in waiting:
            if wire is None or not _try(wire, message):
                self._fallback.send(peer, message)

    def _forget(self, wire: Wire) -> None:
        with self._lock:
            if self._wires.get(wire.peer) is wire:
                del self._wires[wire.peer]


def _try(wire: Wire, message: Message) -> bool:
    """Send over a wire. Returns False where that cannot be: it is broken, or the message is too large for it."""
    frame = encode(message)
    if len(frame) > MAX_FRAME_SIZE:
        return False
    try:
        wire.send(frame)
    except WireError as problem:
        logger.info("%s", problem)
        return False
    return True
