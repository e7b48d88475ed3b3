"""The router's answers to single messages: what it tells clients and targets when something was lost or is new."""

from typing import Any

import msgspec

from actors.config import RouterConfig
from actors.deadlines import ADOPTION_TIME, ORPHAN_TIME, OVERLOAD_DELAY
from actors.engine.request import Beam, Delta, EngineStats, FinishReason, Request
from actors.messages import Abort, Deltas, Greet, Message, Refuse, Report, Start, Submit
from actors.router import Router
from tests.actors.fakes import FakeClock, ListLink, expected_tokens, make_info, make_request

CLIENT = "client-a"
REQUEST = make_request("r", max_new_tokens=30)
TEXT = expected_tokens(REQUEST)


class Bench:
    def __init__(self, *targets: str) -> None:
        self.link, self.clock = ListLink(), FakeClock()
        self.router = Router(self.link, RouterConfig(), self.clock, models=("demo",))
        for target in targets:
            self.report(target)

    def report(self, target: str, *request_ids: str, **stats: Any) -> None:
        info = make_info(target)
        self.router.handle(Report(info=info, stats=EngineStats(**stats), request_ids=request_ids))

    def submit(self, num_emitted: int = 0, *, request: Request = REQUEST, target_id: str = "") -> None:
        resumed = msgspec.structs.replace(request, emitted_token_ids=TEXT[:num_emitted])
        is_again = bool(target_id or num_emitted)
        message = Submit(client_id=CLIENT, model="demo", request=resumed, is_again=is_again, target_id=target_id)
        assert self.router.submit(message) is None

    def deltas(self, target: str, start: int, end: int) -> None:
        delta = Delta(request_id="r", start=start, token_ids=TEXT[start:end])
        self.router.handle(Deltas(worker_id=target, items=(delta,)))

    def taken(self, peer: str, kind: type[Message]) -> list[Any]:
        return [message for message in self.link.take(peer) if isinstance(message, kind)]


def test_a_new_router_leaves_a_request_with_the_target_that_has_it() -> None:
    bench = Bench("t-0")
    bench.submit(5, target_id="t-1")
    assert not bench.link.take("t-0"), "its target may yet register"
    bench.deltas("t-1", 9, 10)
    assert bench.link.take("t-1") == [Greet()]
    bench.report("t-1", "r")
    (start,) = bench.taken("t-1", Start)
    assert start.request.emitted_token_ids == TEXT[:5]
    bench.deltas("t-1", 5, 10)
    assert [delta.token_ids for message in bench.taken(CLIENT, Deltas) for delta in message.items] == [TEXT[5:10]]


def test_a_target_that_does_not_come_back_is_not_waited_for_long() -> None:
    bench = Bench("t-0")
    bench.submit(5, target_id="t-1")
    bench.clock.advance(ADOPTION_TIME + 0.1)
    bench.router.tick()
    assert len(bench.taken("t-0", Start)) == 1
    bench.report("t-1", "r")
    assert bench.taken("t-1", Abort) == [Abort(request_id="r")]


def test_what_targets_hold_for_nobody_is_ended_once_clients_had_time_to_come_back() -> None:
    bench = Bench()
    bench.report("t-0", "r")
    assert not bench.link.take("t-0")
    bench.clock.advance(ORPHAN_TIME + 0.1)
    bench.report("t-0", "r")
    assert bench.link.take("t-0") == [Abort(request_id="r")]


def test_lost_tokens_are_asked_for_again_and_not_computed_elsewhere() -> None:
    bench = Bench("t-0", "t-1")
    bench.submit()
    bench.deltas("t-0", 0, 4)
    bench.clock.advance(1.0)
    bench.link.take()
    bench.deltas("t-0", 6, 8)
    bench.deltas("t-0", 8, 9)
    (start,) = bench.taken("t-0", Start)
    assert start.request.emitted_token_ids == TEXT[:4]
    assert not bench.link.take("t-1")
    bench.deltas("t-0", 4, 9)
    assert [delta.start for message in bench.taken(CLIENT, Deltas) for delta in message.items] == [4]


def test_a_client_that_comes_back_gets_what_it_missed() -> None:
    bench = Bench("t-0")
    bench.submit()
    bench.deltas("t-0", 0, 8)
    bench.link.take()
    bench.submit(3)
    (message,) = bench.taken(CLIENT, Deltas)
    assert (message.items[0].start, message.items[0].token_ids) == (3, TEXT[3:8])
    assert not bench.link.take("t-0")


def test_what_a_client_has_read_counts_more_than_what_the_router_knows() -> None:
    bench = Bench("t-0")
    bench.submit()
    bench.deltas("t-0", 0, 8)
    bench.link.take()
    other = msgspec.structs.replace(REQUEST, emitted_token_ids=(TEXT[0], TEXT[1] + 1))
    assert bench.router.submit(Submit(client_id=CLIENT, model="demo", request=other, is_again=True)) is None
    abort, start = bench.link.take("t-0")
    assert isinstance(abort, Abort)
    assert isinstance(start, Start)
    assert start.request.emitted_token_ids == other.emitted_token_ids


def beam_request() -> Request:
    params = msgspec.structs.replace(REQUEST.params, num_beams=4)
    return msgspec.structs.replace(REQUEST, params=params)


def test_a_search_has_no_draft_and_begins_again_elsewhere() -> None:
    bench = Bench("t-0")
    bench.router.handle(Report(info=make_info("d-0", "draft"), stats=EngineStats()))
    bench.submit(request=beam_request())
    (start,) = bench.taken("t-0", Start)
    assert start.draft_id == ""
    bench.report("t-1")
    bench.router.worker_gone("t-0", "killed")
    (start,) = bench.taken("t-1", Start)
    assert start.request == beam_request()
    beams = (Beam((5, 6), -0.5, (0, 1), FinishReason.STOP),)
    last = Delta(request_id="r", start=0, beams=beams, finish_reason=FinishReason.STOP)
    for _ in range(2):
        bench.router.handle(Deltas(worker_id="t-1", items=(last,)))
    assert bench.taken(CLIENT, Deltas) == [Deltas(worker_id="t-1", items=(last,))]
    assert bench.router.stats().num_generated_tokens == 2


def test_a_search_that_gets_on_is_not_to_blame_for_its_targets_deaths() -> None:
    bench = Bench("t-0", "t-1")
    bench.submit(request=beam_request())
    for target in ("t-0", "t-1") * 3:
        (start,) = bench.taken(target, Start)
        assert start.request == beam_request()
        life = Delta(request_id="r", start=0, num_searched=16)
        bench.router.handle(Deltas(worker_id=target, items=(life,)))
        bench.router.worker_gone(target, "killed")
        bench.report(target)
    assert not bench.taken(CLIENT, Deltas)


def test_a_full_queue_turns_new_requests_away_and_keeps_those_that_ran() -> None:
    refuse = Refuse(request_id="r", error="full", is_overload=True, worker_id="t-1")
    bench = Bench("t-1")
    bench.submit()
    bench.router.handle(refuse)
    assert bench.taken(CLIENT, Refuse) == [refuse]
    bench.submit(5, target_id="t-0")
    bench.clock.advance(ADOPTION_TIME)
    bench.router.tick()
    bench.router.handle(refuse)
    assert not bench.taken(CLIENT, Refuse)
    bench.link.take()
    bench.router.tick()
    assert not bench.link.take("t-1")
    bench.clock.advance(OVERLOAD_DELAY)
    bench.router.tick()
    assert len(bench.taken("t-1", Start)) == 1


def test_a_request_that_its_client_no_longer_names_is_ended() -> None:
    bench = Bench("t-0")
    bench.submit()
    bench.link.take()
    assert bench.router.client_alive(CLIENT, []) == []
    assert bench.router.client_alive(CLIENT, ["r"]) == []
    bench.router.client_alive(CLIENT, [])
    assert not bench.link.take("t-0")
    bench.router.client_alive(CLIENT, [])
    assert bench.link.take("t-0") == [Abort(request_id="r")]
    assert bench.router.client_alive(CLIENT, ["r"]) == ["r"]
