"""Who may connect: only who knows the listener's key; strangers cost a bounded number of sockets for a bounded time."""

import asyncio
import random
import socket

import msgspec
import pytest

from actors.dial import MAX_NUM_STRANGERS, Listener, dial
from actors.handshake import HEAD_SIZE, MAGIC, NONCE_SIZE, PROOF_SIZE, Endpoint, HandshakeError, answer, greet, new_key
from actors.messages import Abort, Cancel
from actors.wire import HEADER, MAX_FRAME_SIZE
from tests.actors.wires import HOST, Background, Station, background, is_hung_up, until


def connect(endpoint: Endpoint) -> socket.socket:
    return socket.create_connection((endpoint.host, endpoint.port), timeout=10)


def test_both_ends_know_whom_they_talk_to() -> None:
    with background() as thread:
        draft = Station("draft-0", thread)
        wire = thread.run(dial(draft.endpoint, "target-0", "draft-0"))
        assert wire.peer == "draft-0"
        until(lambda: bool(draft.wires))
        assert draft.wires[0].peer == "target-0"
        wire.send(msgspec.msgpack.encode(Abort(request_id="r")))
        assert draft.receive(1) == [Abort(request_id="r")]
        wire.close()


def test_a_wrong_key_opens_nothing_and_is_not_told_apart_from_silence() -> None:
    with background() as thread:
        draft = Station("draft-0", thread)
        wrong = msgspec.structs.replace(draft.endpoint, key=new_key())
        with pytest.raises(HandshakeError, match="does not know"):
            thread.run(dial(wrong, "target-0", "draft-0"))
        # ... and one that does not care what the listener proves:
        with connect(draft.endpoint) as sock:
            sock.sendall(MAGIC + bytes(NONCE_SIZE) + b"\x01t")
            assert len(sock.recv(NONCE_SIZE + PROOF_SIZE, socket.MSG_WAITALL)) == NONCE_SIZE + PROOF_SIZE
            sock.sendall(bytes(PROOF_SIZE))
            assert is_hung_up(sock)
        assert not draft.wires


def test_a_listener_under_another_name_is_not_believed() -> None:
    with background() as thread:
        draft = Station("draft-0", thread)
        with pytest.raises(HandshakeError, match="draft-1"):
            thread.run(dial(draft.endpoint, "target-0", "draft-1"))


def test_a_proof_can_neither_be_said_again_nor_be_turned_round() -> None:
    """Who records a handshake cannot use it, and a listener's own proof is none for a dialer."""
    with background() as thread:
        draft = Station("draft-0", thread)
        key = draft.endpoint.key
        recorded: list[bytes] = []

        async def record() -> None:
            """A man in the middle who passes everything on."""
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            door = connect(draft.endpoint)
            for sock in (ours, theirs, door):
                sock.setblocking(False)
            greeting = loop.create_task(greet(ours, key, "t", "draft-0"))
            hello = await loop.sock_recv(theirs, HEAD_SIZE + 1)
            await loop.sock_sendall(door, hello)
            reply = b""
            while len(reply) < NONCE_SIZE + PROOF_SIZE:
                reply += await loop.sock_recv(door, 4096)
            await loop.sock_sendall(theirs, reply)
            await greeting
            recorded.extend((hello, reply, await loop.sock_recv(theirs, PROOF_SIZE)))
            for sock in (ours, theirs, door):
                sock.close()

        thread.run(record())
        hello, reply, proof = recorded
        for last in (proof, reply[NONCE_SIZE:]):
            with connect(draft.endpoint) as sock:
                sock.sendall(hello)
                again = sock.recv(NONCE_SIZE + PROOF_SIZE, socket.MSG_WAITALL)
                assert again[:NONCE_SIZE] != reply[:NONCE_SIZE]
                sock.sendall(again[NONCE_SIZE:] if last is not proof else proof)
                assert is_hung_up(sock)
        assert not draft.wires


@pytest.mark.parametrize("size", [1, 7, 41, 4096])
def test_garbage_is_hung_up_on(size: int) -> None:
    with background() as thread:
        draft = Station("draft-0", thread)
        with connect(draft.endpoint) as sock:
            sock.sendall(random.Random(size).randbytes(size))
            sock.shutdown(socket.SHUT_WR)
            assert is_hung_up(sock)
        with connect(draft.endpoint) as sock:  # a name that is no text, then one that is empty
            sock.sendall(MAGIC + bytes(NONCE_SIZE) + b"\x02\xff\xfe")
            assert is_hung_up(sock)
        with connect(draft.endpoint) as sock:
            sock.sendall(MAGIC + bytes(NONCE_SIZE) + b"\x00")
            assert is_hung_up(sock)
        assert not draft.wires


def test_strangers_who_say_nothing_are_bounded_and_do_not_keep_others_out() -> None:
    with background() as thread:
        draft = Station("draft-0", thread)
        strangers = [connect(draft.endpoint) for _ in range(MAX_NUM_STRANGERS + 8)]
        thread.run(dial(draft.endpoint, "target-0", "draft-0")).close()
        until(lambda: bool(draft.wires))
        assert all(is_hung_up(sock, timeout=2) for sock in strangers[:8]), "who came first has to go"
        for sock in strangers:
            sock.close()


def test_silence_is_not_waited_for_forever() -> None:
    with background() as thread:
        draft = Station("draft-0", thread, timeout=0.1)
        with connect(draft.endpoint) as sock:
            assert is_hung_up(sock, timeout=5)
        with socket.create_server((HOST, 0)) as mute:
            endpoint = Endpoint(host=HOST, port=mute.getsockname()[1], key=new_key())
            with pytest.raises(TimeoutError):
                thread.run(dial(endpoint, "target-0", "draft-0", timeout=0.1))


def test_a_peer_that_breaks_the_rules_later_loses_its_wire_only() -> None:
    with background() as thread:
        draft = Station("draft-0", thread)
        for junk in (HEADER.pack(MAX_FRAME_SIZE + 1), HEADER.pack(3) + b"\xc1\xc1\xc1", HEADER.pack(1) + b"\x01"):
            bad, good = (thread.run(dial(draft.endpoint, name, "draft-0")) for name in ("bad", "good"))
            sock = socket.socket(fileno=bad.fileno())
            sock.setblocking(True)
            sock.sendall(junk)
            until(lambda: draft.inbox.take() == [] and any(wire.is_closed for wire in draft.wires))
            assert is_hung_up(sock, timeout=5)
            good.send(msgspec.msgpack.encode(Cancel(request_id="r")))
            assert draft.receive(1) == [Cancel(request_id="r")]
            assert {wire.peer for wire in draft.wires if wire.is_closed} == {"bad"}
            sock.detach()
            bad.close()
            good.close()
            draft.wires.clear()
            draft.inbox.take(0.1)


def test_the_key_stays_out_of_logs() -> None:
    endpoint = Endpoint(host=HOST, port=1, key=new_key())
    assert endpoint.key.hex() not in f"{endpoint} {endpoint!r}"
    assert repr(endpoint.key) not in f"{endpoint} {endpoint!r}"


def test_each_listener_has_a_key_of_its_own() -> None:
    async def run() -> tuple[Endpoint, Endpoint]:
        return Listener("a", HOST, lambda wire: None).endpoint, Listener("a", HOST, lambda wire: None).endpoint

    one, other = asyncio.run(run())
    assert one.key != other.key
    assert len(one.key) == 32


def test_an_answer_reads_nothing_behind_the_handshake() -> None:
    """What a dialer sends right behind its proof belongs to the wire."""

    async def run() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        key = new_key()

        async def talk() -> None:
            await greet(ours, key, "t", "d")
            await asyncio.get_running_loop().sock_sendall(ours, HEADER.pack(1) + b"x")

        peer, _ = await asyncio.gather(answer(theirs, key, "d"), talk())
        assert peer == "t"
        assert theirs.recv(100) == HEADER.pack(1) + b"x"
        ours.close()
        theirs.close()

    asyncio.run(run())


def test_a_background_thread_ends() -> None:
    thread = Background()
    Station("draft-0", thread)
    thread.close()
    assert thread.loop.is_closed()
