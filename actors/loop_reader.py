"""Wires read by an event loop, for actors and clients that live on one."""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from actors.codec import decode
from actors.messages import Message
from actors.wire import Wire, WireError

logger = logging.getLogger(__name__)


class LoopReader:
    """Hands on what wires bring, as (peer, message). Used on one event loop only, sending included."""

    def __init__(self, on_message: Callable[[str, Message], None]) -> None:
        self._on_message = on_message

    def attach(self, wire: Wire) -> None:
        """Read a wire from now on, until it breaks."""
        loop = asyncio.get_running_loop()

        def watch_writing(is_waiting: bool) -> None:
            if is_waiting:
                loop.add_writer(wire.fileno(), guard, wire.flush)
            else:
                loop.remove_writer(wire.fileno())

        def read() -> None:
            for frame in wire.receive():
                self._hand_on(wire.peer, decode(frame))

        def guard(work: Callable[[], None]) -> None:
            try:
                work()
            except (WireError, msgspec.MsgspecError) as problem:
                logger.info("a wire is given up: %s", problem)
                self.detach(wire)

        wire.on_backlog = watch_writing
        loop.add_reader(wire.fileno(), guard, read)

    def detach(self, wire: Wire) -> None:
        """Close a wire."""
        if not wire.is_closed:
            loop = asyncio.get_running_loop()
            loop.remove_reader(wire.fileno())
            loop.remove_writer(wire.fileno())
            wire.close()

    def _hand_on(self, peer: str, message: Message) -> None:
        try:
            self._on_message(peer, message)
        except Exception:
            logger.exception("a %s of %s could not be handled", type(message).__name__, peer)
