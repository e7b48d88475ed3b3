"""Frames over a socket: whole and in order whatever the pieces, bounded, never blocking."""

import random
import socket
import time

import pytest

from actors.wire import HEADER, MAX_BACKLOG, MAX_FRAME_SIZE, Wire, WireError
from tests.actors.wires import make_pair


def read_all(wire: Wire, count: int) -> list[bytes]:
    frames: list[bytes] = []
    while len(frames) < count:
        frames += wire.receive()
    return frames


def test_frames_come_whole_and_in_order_whatever_the_pieces() -> None:
    wire, peer = make_pair()
    chance = random.Random(1)
    frames = [chance.randbytes(chance.choice((0, 1, 3, 500, 70_000))) for _ in range(60)]
    stream = b"".join(HEADER.pack(len(frame)) + frame for frame in frames)
    received: list[bytes] = []
    while stream:
        size = chance.choice((1, 2, 5, 1000, 30_000))
        peer.sendall(stream[:size])
        stream = stream[size:]
        received += wire.receive()
    received += wire.receive()
    assert received == frames
    assert wire.receive() == []


def test_what_the_socket_does_not_take_waits_and_keeps_its_order() -> None:
    wire, peer = make_pair()
    changes: list[bool] = []
    wire.on_backlog = changes.append
    frames = [bytes([n]) * 100_000 for n in range(100)]
    for frame in frames:
        wire.send(frame)  # nobody reads, and none of these blocks
    assert changes == [True]
    reader = Wire(peer, "other")
    received: list[bytes] = []
    while len(received) < len(frames):
        received += reader.receive()
        wire.flush()
    assert received == frames
    assert changes == [True, False]
    wire.send(b"after")
    assert read_all(reader, 1) == [b"after"]


def test_who_never_reads_is_given_up_and_costs_bounded_memory() -> None:
    wire, _peer = make_pair()
    began = time.monotonic()
    frame = bytes(MAX_FRAME_SIZE // 4)
    with pytest.raises(WireError, match="does not read"):
        for _ in range(2 * MAX_BACKLOG // len(frame)):
            wire.send(frame)
    assert time.monotonic() - began < 10
    with pytest.raises(WireError, match="broken"):
        wire.send(b"more")
    with pytest.raises(WireError, match="has left"):
        wire.receive()  # the reader is told, and closes


def test_oversized_frames_are_neither_sent_nor_received() -> None:
    wire, peer = make_pair()
    with pytest.raises(ValueError, match="limit"):
        wire.send(bytes(MAX_FRAME_SIZE + 1))
    peer.sendall(HEADER.pack(MAX_FRAME_SIZE + 1) + b"x")
    with pytest.raises(WireError, match="announces a frame of"):
        wire.receive()


def test_the_end_of_a_peer_is_seen_by_both_sides_of_a_wire() -> None:
    wire, peer = make_pair()
    closed: list[int] = []
    wire.on_closed = lambda: closed.append(1)
    peer.sendall(HEADER.pack(2) + b"ok" + HEADER.pack(5) + b"cut")
    peer.close()
    assert wire.receive() == [b"ok"]
    with pytest.raises(WireError, match="has left"):
        wire.receive()
    with pytest.raises(WireError):
        wire.send(b"x")
    wire.close()
    wire.close()
    assert closed == [1]
    assert wire.is_closed


def test_tcp_is_set_up_for_small_messages_and_vanishing_hosts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        wire = Wire(socket.create_connection(server.getsockname()), "peer")
        sock = socket.socket(fileno=socket.dup(wire.fileno()))
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) > 0
        sock.close()
        wire.close()
