"""A link over real sockets: order, other ways where there is no wire, and peers that die and come back."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from actors.dial import dial
from actors.engine.request import Delta
from actors.handshake import Endpoint, new_key
from actors.inbox import Inbox
from actors.loop_reader import LoopReader
from actors.messages import Abort, Close, Deltas, Message
from actors.socket_link import MAX_NUM_WAITING, SocketLink
from actors.wire import MAX_FRAME_SIZE
from tests.actors.fakes import ListLink
from tests.actors.wires import HOST, Background, Station, background, until

DRAFT = "draft-0"


def numbered(first: int, count: int) -> list[Message]:
    return [Abort(request_id=str(n)) for n in range(first, first + count)]


class Target:
    """A link that dials, with what it needs: where drafts listen, an inbox, another way."""

    def __init__(self, thread: Background) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.num_look_ups = 0
        self.fallback = ListLink()
        self.inbox: Inbox[Message] = Inbox()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.link = SocketLink(
            "target-0",
            self.fallback,
            self.inbox,
            look_up=self._look_up,
            can_dial=lambda peer: peer.startswith("draft"),
            spawn=thread.spawn,
        )

    async def _look_up(self, peer: str) -> Endpoint | None:
        self.num_look_ups += 1
        while not self.may_answer.is_set():
            await asyncio.sleep(0.005)
        return self.endpoints.get(peer)

    def send(self, messages: list[Message], peer: str = DRAFT) -> None:
        for message in messages:
            self.link.send(peer, message)


@pytest.fixture
def thread() -> Iterator[Background]:
    with background() as running:
        yield running


def test_the_first_messages_wait_for_the_wire_and_keep_their_order(thread: Background) -> None:
    target, draft = Target(thread), Station(DRAFT, thread)
    target.endpoints[DRAFT] = draft.endpoint
    target.send(numbered(0, 200))  # the first of them are sent while there is no wire yet, the last may be over it
    assert draft.receive(200) == numbered(0, 200)
    assert target.link.is_connected(DRAFT)
    assert target.fallback.take() == []
    assert target.num_look_ups == 1


def test_a_wire_carries_both_directions(thread: Background) -> None:
    target = Target(thread)
    inbox: Inbox[Message] = Inbox()
    answers = SocketLink(DRAFT, ListLink(), inbox)
    draft = Station(DRAFT, thread, on_wire=answers.accept)
    target.endpoints[DRAFT] = draft.endpoint
    target.send(numbered(0, 1))
    until(lambda: answers.is_connected("target-0"))
    answers.send("target-0", Close(request_ids=("r",)))
    until(lambda: target.inbox.take(0.01) == [Close(request_ids=("r",))])


def test_peers_that_cannot_be_dialed_get_their_messages_the_other_way(thread: Background) -> None:
    target = Target(thread)
    target.send(numbered(0, 5), peer="router")
    assert target.fallback.take("router") == numbered(0, 5)
    assert target.num_look_ups == 0
    target.send(numbered(0, 300), peer="draft-1")  # it does not listen
    until(lambda: len(target.fallback.sent) >= MAX_NUM_WAITING)
    time.sleep(0.05)
    sent = [int(message.request_id) for message in target.fallback.take("draft-1") if isinstance(message, Abort)]
    assert sent == sorted(sent)
    assert sent[-1] == 299
    target.endpoints["draft-2"] = Endpoint(host=HOST, port=1, key=new_key())  # nobody is there
    target.send(numbered(0, 5), peer="draft-2")
    until(lambda: target.fallback.take("draft-2") == numbered(0, 5))
    assert not target.link.is_connected("draft-2")


def test_only_the_first_attempt_holds_messages_back(thread: Background) -> None:
    target, draft = Target(thread), Station(DRAFT, thread)
    target.send(numbered(0, 1))
    until(lambda: bool(target.fallback.take()))
    target.endpoints[DRAFT] = draft.endpoint
    target.may_answer.clear()
    time.sleep(0.3)  # past the backoff
    target.send(numbered(1, 3))
    assert target.fallback.take() == numbered(1, 3), "a second attempt is made beside what goes on"
    target.may_answer.set()
    until(lambda: target.link.is_connected(DRAFT))
    target.send(numbered(4, 3))
    assert draft.receive(3) == numbered(4, 3)
    assert target.fallback.take() == []


def test_attempts_grow_rare(thread: Background) -> None:
    target = Target(thread)
    ends = time.monotonic() + 1.0
    while time.monotonic() < ends:
        target.send(numbered(0, 1))
        time.sleep(0.002)
    assert 2 <= target.num_look_ups <= 5  # at 0, 0.1, 0.3, 0.7


def test_a_peer_that_dies_and_comes_back_elsewhere_is_found_again(thread: Background) -> None:
    target, draft = Target(thread), Station(DRAFT, thread)
    target.endpoints[DRAFT] = draft.endpoint
    target.send(numbered(0, 3))
    assert draft.receive(3) == numbered(0, 3)
    draft.die()
    until(lambda: target.inbox.take(0.01) == [] and not target.link.is_connected(DRAFT))
    del target.endpoints[DRAFT]
    target.send(numbered(3, 3))
    until(lambda: target.fallback.take() == numbered(3, 3))
    again = Station(DRAFT, thread)
    assert again.endpoint.key != draft.endpoint.key
    target.endpoints[DRAFT] = again.endpoint
    deadline = time.monotonic() + 10
    while not target.link.is_connected(DRAFT):
        target.send(numbered(6, 1))
        assert time.monotonic() < deadline
        time.sleep(0.02)
    target.send(numbered(7, 3))
    assert again.receive(3)[-3:] == numbered(7, 3)


def test_a_peer_that_dies_unseen_costs_messages_but_neither_blocks_nor_raises(thread: Background) -> None:
    """The engine's thread sends while its inbox waits for a forward to end."""
    target, draft = Target(thread), Station(DRAFT, thread)
    target.endpoints[DRAFT] = draft.endpoint
    target.send(numbered(0, 1))
    assert draft.receive(1) == numbered(0, 1)
    draft.die()
    time.sleep(0.05)
    target.send(numbered(1, 10))
    assert len(target.fallback.take()) >= 8  # the first may vanish in the socket, the rest go the other way
    target.inbox.take(0.1)
    assert not target.link.is_connected(DRAFT)


def test_a_peer_that_dials_anew_replaces_its_old_wire(thread: Background) -> None:
    inbox: Inbox[Message] = Inbox()
    router = SocketLink("router", ListLink(), inbox)
    station = Station("router", thread, on_wire=router.accept)
    first, second = Target(thread), Target(thread)
    for target in (first, second):
        # Both call themselves target-0, as an actor does before and after its restart.
        target.link.accept(thread.run(dial(station.endpoint, "target-0", "router")))
        until(lambda: router.is_connected("target-0"))
    until(lambda: first.inbox.take(0.01) == [] and not first.link.is_connected("router"))
    router.send("target-0", Abort(request_id="r"))
    until(lambda: second.inbox.take(0.01) == [Abort(request_id="r")])
    inbox.take(0.1)
    assert router.is_connected("target-0"), "the old wire's end must not take the new one with it"


def test_what_is_too_large_for_a_frame_goes_the_other_way(thread: Background) -> None:
    target, draft = Target(thread), Station(DRAFT, thread)
    target.endpoints[DRAFT] = draft.endpoint
    target.send(numbered(0, 1))
    assert draft.receive(1)
    large = Abort(request_id="x" * (MAX_FRAME_SIZE + 1))
    target.send([large, *numbered(1, 1)])
    assert target.fallback.take() == [large]
    assert draft.receive(1) == numbered(1, 1)
    assert target.link.is_connected(DRAFT)


def test_threads_may_send_at_the_same_time(thread: Background) -> None:
    target, draft = Target(thread), Station(DRAFT, thread)
    target.endpoints[DRAFT] = draft.endpoint
    target.send(numbered(0, 1))
    draft.receive(1)

    def send(worker: int) -> None:
        for n in range(500):
            delta = Delta(request_id=f"{worker}", start=n, token_ids=(1,) * 300)
            target.link.send(DRAFT, Deltas(worker_id="t", items=(delta,)))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(3)]
    for one in threads:
        one.start()
    received = draft.receive(1500)
    while any(one.is_alive() for one in threads) or len(received) < 1500:
        target.inbox.take(0.0)  # flushes what waits
        received += draft.receive(1, timeout=0.05)
    for worker in range(3):
        starts = [m.items[0].start for m in received if isinstance(m, Deltas) and m.items[0].request_id == f"{worker}"]
        assert starts == list(range(500))


def test_an_event_loop_reads_and_writes_wires_too(thread: Background) -> None:
    """The router's side: what its socket does not take at once goes out as its peer reads, and its end is noticed."""
    received: list[tuple[str, Message]] = []

    def take_in(peer: str, message: Message) -> None:
        received.append((peer, message))
        assert message != Abort(request_id="1"), "a failure of one message"

    link = SocketLink("draft-router", ListLink(), LoopReader(take_in))
    station = Station("draft-router", thread, on_wire=link.accept)
    target = Target(thread)
    target.endpoints["draft-router"] = station.endpoint
    target.send(numbered(0, 3), peer="draft-router")
    until(lambda: len(received) == 3)
    assert received == [("target-0", message) for message in numbered(0, 3)]
    big = [Deltas(worker_id="t", items=(Delta(request_id="r", start=n, token_ids=(n,) * 500_000),)) for n in range(12)]

    async def send() -> None:
        for message in big:
            link.send("target-0", message)

    thread.run(send())
    arrived: list[Message] = []
    while len(arrived) < len(big):
        arrived += target.inbox.take(1.0)
    assert arrived == big
    target.inbox.close()
    until(lambda: not link.is_connected("target-0"))
