"""One direct connection to a peer: frames with their length in front, over a socket that never blocks.

What the socket does not take at once waits here, and what has come in waits until its frame is whole; both are bounded,
and a wire that goes over a bound breaks. Frames that a broken wire had not delivered are lost.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Protocol

HEADER = struct.Struct("!I")  # bytes of the frame that follows
MAX_FRAME_SIZE = 64 * 2**20
MAX_BACKLOG = 2 * MAX_FRAME_SIZE  # bytes that wait for a peer which does not read
RECEIVE_SIZE = 256 * 2**10

# A peer whose host is gone says nothing; Linux gives up on it after these seconds.
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 5, 2, 3
UNANSWERED_TIMEOUT_MS = 10_000


class WireError(Exception):
    """The wire is broken: the peer is gone, reads too slowly, or sends what is no frame."""


class Reader(Protocol):
    """Whoever waits for what wires bring."""

    def attach(self, wire: "Wire") -> None:
        """Read a wire from now on, until it breaks; then close it. From any thread that may do so."""


class Wire:
    """A connection whose both ends have proved who they are. Any thread may send, one reads.

    Args:
        sock: the connected socket, which the wire owns from now on.
        peer: name of who is at the other end.

    Attributes:
        on_backlog: called with whether frames wait, each time that this changes: while they do, the reader has to call
            :meth:`flush` whenever the socket takes bytes. It must not call the wire.
        on_closed: called once, when the wire is closed.
        is_closed: whether it is.
    """

    def __init__(self, sock: socket.socket, peer: str) -> None:
        prepare(sock)
        self.peer = peer
        self.on_backlog: Callable[[bool], None] = lambda is_waiting: None
        self.on_closed: Callable[[], None] = lambda: None
        self._socket = sock
        self._lock = threading.Lock()
        self._backlog = bytearray()
        self._received = bytearray()
        self._is_broken = False
        self.is_closed = False

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send(self, frame: bytes) -> None:
        """Send one frame, or keep it until the socket takes it. Never blocks. Raises WireError; it is lost then."""
        if len(frame) > MAX_FRAME_SIZE:
            raise ValueError(f"a frame of {len(frame)} bytes, but the limit is {MAX_FRAME_SIZE}")
        data = HEADER.pack(len(frame)) + frame
        with self._lock:
            if self._is_broken:
                raise WireError(f"the wire to {self.peer} is broken")
            if self._backlog:
                if len(self._backlog) + len(data) > MAX_BACKLOG:
                    self._break()
                    raise WireError(f"{self.peer} does not read what it is sent")
                self._backlog += data
                return
            sent = self._write(data)
            if sent < len(data):
                self._backlog += memoryview(data)[sent:]
                self.on_backlog(True)

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it. Raises WireError."""
        with self._lock:
            if self._backlog:
                sent = self._write(self._backlog)
                del self._backlog[:sent]
                if not self._backlog:
                    self.on_backlog(False)

    def receive(self) -> list[bytes]:
        """Return the frames that have become whole, without waiting. Raises WireError, also where the peer has left."""
        try:
            data = self._socket.recv(RECEIVE_SIZE)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise WireError(f"{self.peer}: {error}") from None
        if not data:
            raise WireError(f"{self.peer} has left")
        received = self._received
        received += data
        frames, at = [], 0
        while len(received) - at >= HEADER.size:
            (size,) = HEADER.unpack_from(received, at)
            if size > MAX_FRAME_SIZE:
                raise WireError(f"{self.peer} announces a frame of {size} bytes, but the limit is {MAX_FRAME_SIZE}")
            end = at + HEADER.size + size
            if len(received) < end:
                break
            frames.append(bytes(received[at + HEADER.size : end]))
            at = end
        del received[:at]
        return frames

    def abandon(self) -> None:
        """Break the wire from this end; its reader closes it."""
        with self._lock:
            self._break()

    def close(self) -> None:
        """Give the socket back. For the reader, once it no longer waits for the descriptor."""
        with self._lock:
            if self.is_closed:
                return
            self._is_broken = self.is_closed = True
            self._backlog.clear()
            self._received.clear()
            self._socket.close()
        self.on_closed()

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._break()
            raise WireError(f"{self.peer}: {error}") from None

    def _break(self) -> None:
        """Wake the reader with the end of the stream; only it may close the descriptor that it waits for."""
        if not self._is_broken:
            self._is_broken = True
            with contextlib.suppress(OSError):  # the peer may have been faster, which wakes the reader as well
                self._socket.shutdown(socket.SHUT_RDWR)


def prepare(sock: socket.socket) -> None:
    """Set a TCP socket up for small messages that must not wait, and for peers that vanish."""
    sock.setblocking(False)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_TIMEOUT_MS)
