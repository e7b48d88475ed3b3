"""Opening wires: dialing an endpoint, and answering who dials. Everything here runs on one event loop."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

from actors.handshake import Endpoint, HandshakeError, answer, greet, new_key
from actors.wire import Wire, prepare

logger = logging.getLogger(__name__)

DIAL_TIMEOUT = 2.0  # seconds to connect and to greet
HANDSHAKE_TIMEOUT = 5.0  # seconds that somebody who has proved nothing may hold a socket
MAX_NUM_STRANGERS = 64  # sockets of such somebodies; one more, and who came first has to go
BACKLOG = 128
ACCEPT_PAUSE = 0.1  # seconds before another try where the process has no descriptors left


async def dial(endpoint: Endpoint, name: str, listener: str, timeout: float = DIAL_TIMEOUT) -> Wire:
    """Connect as ``name`` to the actor ``listener``. Raises HandshakeError, OSError (also TimeoutError)."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        prepare(sock)
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(sock, (endpoint.host, endpoint.port))
            await greet(sock, endpoint.key, name, listener)
    except BaseException:
        sock.close()
        raise
    return Wire(sock, listener)


class Listener:
    """Takes calls for the actor ``name`` on a port of ``host`` that is free; ``on_wire`` gets a wire a caller.

    Who has not proved anything costs a socket and a few hundred bytes, for a bounded time and in a bounded number.
    """

    def __init__(
        self, name: str, host: str, on_wire: Callable[[Wire], None], timeout: float = HANDSHAKE_TIMEOUT
    ) -> None:
        self._name = name
        self._timeout = timeout
        self._on_wire = on_wire
        self._strangers: dict[asyncio.Task[None], None] = {}  # in the order of their coming
        self._socket = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
        )
        self._socket.setblocking(False)
        self.endpoint = Endpoint(host=host, port=self._socket.getsockname()[1], key=new_key())

    async def run(self) -> None:
        """Take calls until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    sock, _ = await loop.sock_accept(self._socket)
                except OSError as error:
                    logger.warning("%s cannot take a call: %s", self._name, error)
                    await asyncio.sleep(ACCEPT_PAUSE)
                    continue
                if len(self._strangers) >= MAX_NUM_STRANGERS:
                    first = next(iter(self._strangers))
                    del self._strangers[first]
                    first.cancel()
                task = loop.create_task(self._answer(sock))
                self._strangers[task] = None
                task.add_done_callback(lambda done: self._strangers.pop(done, None))
                await asyncio.sleep(0)  # it begins, and so will close its socket whatever ends it
        finally:
            self._socket.close()
            for task in self._strangers:
                task.cancel()

    async def _answer(self, sock: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            try:
                prepare(sock)
                async with asyncio.timeout(self._timeout):
                    peer = await answer(sock, self.endpoint.key, self._name)
            except (HandshakeError, OSError) as problem:
                logger.info("%s refuses a caller: %s", self._name, problem)
                return
            stack.pop_all()
            self._on_wire(Wire(sock, peer))
