"""Direct connections between the actors of a cluster: Ray introduces them, then they talk without it.

Whoever listens makes a key of its own when it starts, and tells it with its address to those who ask by a Ray call, so
who may call actors of this Ray may connect, and nobody else. A restarted actor has another address and another key,
and whoever finds its wire broken asks again.

Workers and clients dial the router, and targets dial drafts; each wire carries both directions.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any

import msgspec
import ray

from actors.config import NAMESPACE, ROUTER_NAME, Channel, Role
from actors.dial import Listener
from actors.handshake import Endpoint
from actors.inbox import Inbox
from actors.link import Link
from actors.ray_link import RayLink
from actors.socket_link import SocketLink
from actors.wire import Wire

logger = logging.getLogger(__name__)

LOOK_UP_TIMEOUT = 2.0


def is_direct(channel: Channel, environ: Mapping[str, str]) -> bool:
    """Whether actors connect directly, by the configuration and what Ray is told in the environment."""
    is_encrypted = environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    return channel == "socket" or (channel == "auto" and not is_encrypted)


async def look_up(peer: str) -> Endpoint | None:
    """Ask an actor where it listens; None where it does not. Raises ValueError, RayError, TimeoutError."""
    async with asyncio.timeout(LOOK_UP_TIMEOUT):
        return await endpoint_of(await asyncio.to_thread(ray.get_actor, peer, NAMESPACE))


async def endpoint_of(actor: Any) -> Endpoint | None:
    """Ask an actor where it listens; None where it does not. Raises RayError."""
    frame = await actor.channel.remote()
    return msgspec.msgpack.decode(frame, type=Endpoint) if frame is not None else None


def listen(name: str, on_wire: Callable[[Wire], None]) -> Listener:
    """A listener on this node's address in the cluster."""
    return Listener(name, ray.util.get_node_ip_address(), on_wire)


class WorkerChannel:
    """A worker's connections, opened on a thread of their own. The engine's thread sends and reads by itself.

    Attributes:
        link: what the worker's loop sends over.
    """

    def __init__(self, worker_id: str, role: Role, inbox: Inbox[Any], *, is_direct: bool) -> None:
        self._endpoint: bytes | None = None
        if not is_direct:
            self.link: Link = RayLink()
            return
        self._loop = asyncio.new_event_loop()
        self.link = link = SocketLink(
            worker_id,
            RayLink(),
            inbox,
            look_up=look_up,
            can_dial=lambda peer: role == "target" or peer == ROUTER_NAME,
            spawn=self._spawn,
        )
        threading.Thread(target=self._loop.run_forever, name="channel", daemon=True).start()
        if role == "draft":
            listener = listen(worker_id, link.accept)
            self._endpoint = msgspec.msgpack.encode(listener.endpoint)
            self._spawn(listener.run())

    def endpoint(self) -> bytes | None:
        """Where this worker listens, as an encoded Endpoint; None where it does not."""
        return self._endpoint

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "Future[None]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)
