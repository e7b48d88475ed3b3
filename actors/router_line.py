"""A client's way to the router: a direct connection where there can be one, actor calls where there cannot."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import ray

from actors.codec import decode, encode
from actors.config import ROUTER_NAME
from actors.dial import dial
from actors.engine.errors import SlipstreamError
from actors.handshake import HandshakeError
from actors.loop_reader import LoopReader
from actors.messages import Accept, Message, Refuse, Submit
from actors.ray_channel import endpoint_of
from actors.start import get_router
from actors.status import ClusterStats
from actors.wire import MAX_FRAME_SIZE, Wire, WireError

logger = logging.getLogger(__name__)

LINE_ERRORS = (ray.exceptions.RayError, WireError)  # what says that the router, or the way to it, is gone

REDIAL_INTERVAL = 30.0  # seconds after which a client that could not connect tries again


class RouterLine:
    """Belongs to the event loop that uses it. Without a direct connection it tries for one each ``redial_interval``."""

    def __init__(self, client_id: str, router: Any, redial_interval: float = REDIAL_INTERVAL) -> None:
        self._redial_interval = redial_interval
        self._client_id = client_id
        self._router = router
        self._wire: Wire | None = None
        self._answers: dict[str, asyncio.Future[Refuse | None]] = {}

    async def listen(self, receive: Callable[[Message], None]) -> None:
        """Hand on what the router sends, until that breaks, or another way should be tried. Raises RayError."""
        wire = await self._dial()
        if wire is None:
            await self._listen_by_call(receive)
        else:
            await self._listen_by_wire(wire, receive)

    async def submit(self, submission: Submit) -> Refuse | None:
        """Hand a request in. Returns what it is refused with. Raises one of LINE_ERRORS where no answer comes."""
        frame = encode(submission)
        if self._wire is None or len(frame) > MAX_FRAME_SIZE:
            answer = await self._router.submit.remote(frame)
            refusal = decode(answer) if answer is not None else None
            return refusal if isinstance(refusal, Refuse) else None
        request_id = submission.request.request_id
        answered: asyncio.Future[Refuse | None] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answered
        try:
            self._wire.send(frame)
            return await answered
        finally:
            if self._answers.get(request_id) is answered:
                del self._answers[request_id]

    def send(self, message: Message) -> None:
        """Send one message. Never raises; loss is allowed."""
        frame = encode(message)
        try:
            if self._wire is not None and len(frame) <= MAX_FRAME_SIZE:
                self._wire.send(frame)
            else:
                self._router.receive.options(num_returns=0).remote(frame)
        except Exception as error:
            logger.debug("the router cannot be reached: %s", error)

    async def beat(self, request_ids: Iterable[str]) -> list[str]:
        """Say that this client lives and what it has open. Returns what the router does not know. Raises RayError."""
        unknown: list[str] = await self._router.client_alive.remote(self._client_id, list(request_ids))
        return unknown

    async def stats(self) -> ClusterStats:
        """The cluster's state. Raises RayError."""
        return msgspec.msgpack.decode(await self._router.stats.remote(), type=ClusterStats)

    async def find_router(self) -> None:
        """Look for the router that runs now, if there is one."""
        try:
            self._router = await asyncio.to_thread(get_router)
        except SlipstreamError as error:
            logger.debug("%s", error)

    async def _dial(self) -> Wire | None:
        """A wire to the router; None where there can be none. Raises RayError."""
        endpoint = await endpoint_of(self._router)
        if endpoint is None:
            return None
        try:
            return await dial(endpoint, self._client_id, ROUTER_NAME)
        except (HandshakeError, OSError) as problem:
            logger.warning("no direct connection to the router, calls go through Ray: %s", problem or type(problem))
            return None

    async def _listen_by_wire(self, wire: Wire, receive: Callable[[Message], None]) -> None:
        def take_in(peer: str, message: Message) -> None:
            match message:
                case Accept(request_id=request_id) | Refuse(request_id=request_id) if request_id in self._answers:
                    answered = self._answers.pop(request_id)
                    if not answered.done():
                        answered.set_result(message if isinstance(message, Refuse) else None)
                case _:
                    receive(message)

        closed = asyncio.Event()
        wire.on_closed = closed.set
        reader = LoopReader(take_in)
        reader.attach(wire)
        self._wire = wire
        try:
            await closed.wait()
        finally:
            self._wire = None
            reader.detach(wire)
            for answered in self._answers.values():
                if not answered.done():
                    answered.set_exception(WireError("the router has left"))
            self._answers.clear()

    async def _listen_by_call(self, receive: Callable[[Message], None]) -> None:
        stream = self._router.subscribe.options(num_returns="streaming").remote(self._client_id)
        try:
            async with asyncio.timeout(self._redial_interval):
                async for item in stream:
                    receive(decode(await item))
        except TimeoutError:
            logger.debug("time to try for a direct connection again")
