"""The inbox of an engine's thread: sleeps for nothing, wakes for either kind of thing."""

import threading
import time

from actors.codec import encode
from actors.inbox import Inbox
from actors.messages import Abort, Message
from actors.wire import Wire
from tests.actors.wires import make_pair


def test_it_wakes_for_what_is_put_in_and_for_what_wires_bring() -> None:
    inbox: Inbox[Message] = Inbox()
    wire, sock = make_pair()
    inbox.attach(wire)
    peer = Wire(sock, "peer")
    assert inbox.take() == []
    for put in (inbox.put, lambda message: peer.send(encode(message))):
        began = time.monotonic()
        threading.Timer(0.05, put, args=(Abort(request_id="a"),)).start()
        assert inbox.take(10.0) == [Abort(request_id="a")]
        assert time.monotonic() - began < 5
    inbox.put(Abort(request_id="b"))
    peer.send(encode(Abort(request_id="c")))
    assert {m.request_id for m in inbox.take(1.0) if isinstance(m, Abort)} == {"b", "c"}
    assert inbox.take(0.01) == []


def test_it_does_not_spin_while_it_sleeps() -> None:
    inbox: Inbox[Message] = Inbox()
    wire, _peer = make_pair()
    inbox.attach(wire)
    spent = time.thread_time()
    assert inbox.take(0.3) == []
    assert time.thread_time() - spent < 0.05


def test_a_wire_that_ends_is_closed_and_forgotten() -> None:
    inbox: Inbox[Message] = Inbox()
    wire, sock = make_pair()
    inbox.attach(wire)
    Wire(sock, "peer").send(encode(Abort(request_id="last words")))
    sock.close()
    assert inbox.take(1.0) == [Abort(request_id="last words")]
    assert inbox.take(1.0) == []
    assert wire.is_closed
    began = time.monotonic()
    assert inbox.take(0.05) == []
    assert time.monotonic() - began >= 0.04, "it sleeps again"
    inbox.close()
