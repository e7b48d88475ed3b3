"""A link over Ray: peers are named actors, a message is a call that nobody waits for."""

import logging
import math
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ray

from actors.codec import encode
from actors.config import NAMESPACE
from actors.messages import Message

logger = logging.getLogger(__name__)

CHECK_INTERVAL = 1.0  # seconds between two looks at whether a peer is still there
ABSENT_INTERVAL = 0.1  # ... at whether one that was away is back
MAX_NUM_WAITING = 256  # frames kept for a peer while it is being looked up


@dataclass
class _Peer:
    """What the link knows of one peer: its handle once it is found, or until when it counts as absent."""

    handle: Any = None
    waiting: deque[bytes] = field(default_factory=lambda: deque(maxlen=MAX_NUM_WAITING))
    absent_until: float = 0.0
    probe_at: float = 0.0


class RayLink:
    """Sends messages as fire-and-forget calls of ``receive(frame)`` on actors of the namespace.

    Looking a peer up may block, so it happens on a thread of the link. Frames for a peer that is being looked up wait
    for it, the oldest dropped first; those for one that is gone are lost.
    """

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="ray-link", daemon=True)
        self._thread.start()

    def send(self, peer: str, message: Message) -> None:
        """Send one message to the actor named ``peer``. Never blocks and never raises; loss is allowed."""
        frame, now = encode(message), time.monotonic()
        with self._lock:
            known = self._peers.setdefault(peer, _Peer())
            if known.handle is None:
                if now >= known.absent_until:
                    known.waiting.append(frame)
                    self._wanted.set()
                return
            is_probe = now >= known.probe_at
            if is_probe:
                known.probe_at = math.inf
            handle = known.handle
        try:
            if is_probe:
                # Ray tells of a dead peer only through a result, so now and then one is asked for.
                handle.receive.remote(frame).future().add_done_callback(lambda result: self._probed(peer, result))
            else:
                handle.receive.options(num_returns=0).remote(frame)
        except Exception as error:
            logger.debug("%s cannot be reached: %s", peer, error)
            self._forget(peer)

    def close(self) -> None:
        """End the link's thread."""
        self._is_closed = True
        self._wanted.set()

    def _run(self) -> None:
        while not self._is_closed:
            self._wanted.wait()
            self._wanted.clear()
            with self._lock:
                wanted = [name for name, peer in self._peers.items() if peer.waiting and peer.handle is None]
            for name in wanted:
                try:
                    self._look_up(name)
                except Exception as error:
                    logger.debug("%s cannot be looked up: %s", name, error)
                    self._forget(name)

    def _look_up(self, name: str) -> None:
        try:
            handle = ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            self._forget(name)
            return
        with self._lock:
            # Under the lock, so that frames which waited go out before those that come now.
            peer = self._peers[name]
            for frame in peer.waiting:
                handle.receive.options(num_returns=0).remote(frame)
            peer.waiting.clear()
            peer.handle, peer.probe_at = handle, 0.0

    def _probed(self, name: str, result: Future[None]) -> None:
        """Take in a probe's result. Called on a thread of Ray's, which must not wait for the lock."""
        if result.exception() is None:
            self._peers[name].probe_at = time.monotonic() + CHECK_INTERVAL
        else:
            self._forget(name)

    def _forget(self, name: str) -> None:
        """Take a peer as absent for a while. What waits for it is lost."""
        self._peers[name] = _Peer(absent_until=time.monotonic() + ABSENT_INTERVAL)
