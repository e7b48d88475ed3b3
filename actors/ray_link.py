"""A link over Ray: peers are named actors, a message is a call that nobody waits for."""

import logging
import threading
import time
from collections import deque
from typing import Any

import ray

from actors.codec import encode
from actors.config import NAMESPACE
from actors.messages import Message

logger = logging.getLogger(__name__)

CHECK_INTERVAL = 1.0  # seconds between two looks at whether a peer is still there
MAX_NUM_PENDING = 256  # frames kept for a peer whose handle is being looked up


class RayLink:
    """Sends messages as fire-and-forget calls of ``receive(frame)`` on actors of the namespace.

    Looking a peer up, and finding out that one is gone, may block; both happen on a thread of the link. Frames for a
    peer that is being looked up wait for it, the oldest dropped first; those for one that is gone are lost.
    """

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}
        self._pending: dict[str, deque[bytes]] = {}
        self._probes: dict[str, Any] = {}
        self._probe_due: set[str] = set()
        self._absent_until: dict[str, float] = {}
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="ray-link", daemon=True)
        self._thread.start()

    def send(self, peer: str, message: Message) -> None:
        """Send one message to the actor named ``peer``. Never blocks and never raises; loss is allowed."""
        frame = encode(message)
        with self._lock:
            handle = self._handles.get(peer)
            if handle is None:
                self._pending.setdefault(peer, deque(maxlen=MAX_NUM_PENDING)).append(frame)
                self._wanted.set()
                return
            # Ray tells of a dead peer only through a result, so now and then one is asked for.
            is_probe = peer in self._probe_due
            self._probe_due.discard(peer)
        try:
            if is_probe:
                self._probes[peer] = handle.receive.remote(frame)
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
        next_check = time.monotonic() + CHECK_INTERVAL
        while not self._is_closed:
            self._wanted.wait(max(0.01, next_check - time.monotonic()))
            self._wanted.clear()
            try:
                self._look_up()
                if time.monotonic() >= next_check:
                    next_check = time.monotonic() + CHECK_INTERVAL
                    self._check()
            except Exception as error:
                logger.debug("the link could not look after its peers: %s", error)

    def _look_up(self) -> None:
        """Find the peers that frames wait for, each at most once an interval while it is absent."""
        now = time.monotonic()
        with self._lock:
            wanted = list(self._pending)
        for peer in wanted:
            if self._absent_until.get(peer, 0.0) > now:
                continue
            try:
                handle = ray.get_actor(peer, namespace=NAMESPACE)
            except ValueError:
                self._absent_until[peer] = now + CHECK_INTERVAL
                with self._lock:
                    del self._pending[peer]
                continue
            with self._lock:
                # Under the lock, so that frames which waited go out before those that come now.
                for frame in self._pending.pop(peer):
                    handle.receive.options(num_returns=0).remote(frame)
                self._handles[peer] = handle
                self._probe_due.add(peer)
                self._absent_until.pop(peer, None)

    def _check(self) -> None:
        """Forget peers whose probe has failed and ask for the next probes."""
        for peer, probe in list(self._probes.items()):
            done, _ = ray.wait([probe], timeout=0)
            if not done:
                continue
            del self._probes[peer]
            try:
                ray.get(probe)
            except ray.exceptions.RayError as error:
                logger.debug("%s is gone: %s", peer, error)
                self._forget(peer)
            else:
                with self._lock:
                    self._probe_due.add(peer)
        now = time.monotonic()
        self._absent_until = {peer: until for peer, until in self._absent_until.items() if until > now}

    def _forget(self, peer: str) -> None:
        with self._lock:
            self._handles.pop(peer, None)
            self._probe_due.discard(peer)
