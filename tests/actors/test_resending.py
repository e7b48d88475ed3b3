"""What a target says when it is asked to start what it runs already: by a router that is new, or has lost tokens."""

import msgspec

from actors.config import RouterConfig
from actors.messages import Deltas, Greet, Report, Start
from actors.target_loop import TargetLoop
from tests.actors.fakes import FakeClock, FakeEngine, ListLink, expected_tokens, make_info, make_request

REQUEST = make_request("r", max_new_tokens=20)
TEXT = expected_tokens(REQUEST)


class Bench:
    """A target without a draft that has made some steps, one token each."""

    def __init__(self, num_steps: int = 6, logprobs: int | None = None) -> None:
        self.link, self.clock, self.engine = ListLink(), FakeClock(), FakeEngine()
        config = RouterConfig(report_interval=10.0)
        self.loop = TargetLoop(self.engine, self.link, make_info("target"), "router", config, self.clock)
        params = msgspec.structs.replace(REQUEST.params, logprobs=logprobs)
        self.request = msgspec.structs.replace(REQUEST, params=params)
        self.loop.handle(Start(request=self.request))
        self.turns(num_steps)
        self.link.take()

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.loop.run_once()

    def start_again(self, emitted: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
        """Start once more, as one who knows ``emitted``; what comes of it at once, as (start, tokens)."""
        self.loop.handle(Start(request=msgspec.structs.replace(self.request, emitted_token_ids=emitted)))
        return self.deltas()

    def deltas(self) -> list[tuple[int, tuple[int, ...]]]:
        messages = [message for message in self.link.take("router") if isinstance(message, Deltas)]
        return [(delta.start, delta.token_ids) for message in messages for delta in message.items]


def test_what_is_missing_is_sent_again_and_nothing_is_computed_twice() -> None:
    bench = Bench()
    assert bench.start_again(TEXT[:2]) == [(2, TEXT[2:6])]
    assert bench.start_again(TEXT[:6]) == []
    assert bench.engine.num_added == 1
    bench.turns(1)
    assert bench.deltas() == [(6, TEXT[6:7])]


def test_who_knows_other_tokens_or_more_gets_a_new_run_behind_them() -> None:
    for emitted in ((TEXT[0] + 1,), TEXT[:8]):
        bench = Bench()
        assert bench.start_again(emitted) == []
        assert bench.engine.num_added == 2
        bench.turns(1)
        assert bench.deltas()[0][0] == len(emitted)


def test_logprobs_are_not_kept_so_they_are_computed_again() -> None:
    bench = Bench(logprobs=1)
    assert bench.start_again(TEXT[:2]) == []
    bench.turns(1)
    assert bench.deltas() == [(2, TEXT[2:3])]
    assert bench.engine.num_added == 2


def test_a_router_that_does_not_know_it_gets_a_report_at_once() -> None:
    bench = Bench()
    bench.loop.handle(Greet())
    bench.turns(1)
    (report,) = [message for message in bench.link.take("router") if isinstance(message, Report)]
    assert report.request_ids == ("r",)
