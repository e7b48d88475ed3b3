"""One draft's loop with a fake engine: what it answers, and what it forgets."""

from actors.config import RouterConfig
from actors.draft_loop import IDLE_TIMEOUT, DraftLoop
from actors.engine.params import GenerationParams
from actors.messages import Close, Extend, ExtendItem, Proposals
from tests.actors.fakes import FakeClock, FakeEngine, ListLink, expected_tokens, make_info, make_request

REQUEST = make_request("r", num_prompt=5, max_new_tokens=20)
TEXT = expected_tokens(REQUEST)


class Bench:
    def __init__(self, max_num_sequences: int = 10) -> None:
        self.engine = FakeEngine(agreement=1.0, max_num_sequences=max_num_sequences)
        self.link, self.clock = ListLink(), FakeClock()
        config = RouterConfig(report_interval=1.0)
        self.loop = DraftLoop(self.engine, self.link, make_info("draft", "draft"), "router", config, self.clock)

    def extend(
        self, start: int, token_ids: tuple[int, ...], k: int, *, request_id: str = "r", is_first: bool = False
    ) -> None:
        item = ExtendItem(
            request_id=request_id,
            start=start,
            token_ids=token_ids,
            num_draft_tokens=k,
            num_prompt_tokens=5 if is_first else 0,
            params=GenerationParams(max_new_tokens=20) if is_first else None,
        )
        self.loop.handle(Extend(target_id="target", items=(item,)))

    def run(self) -> list[Proposals]:
        self.loop.run_once()
        while self.loop.has_work():
            self.loop.run_once()
        return [message for message in self.link.take("target") if isinstance(message, Proposals)]


def test_it_proposes_behind_what_is_confirmed() -> None:
    bench = Bench()
    bench.extend(0, REQUEST.prompt_token_ids, 3, is_first=True)
    (answer,) = bench.run()
    assert (answer.items[0].start, answer.items[0].token_ids) == (5, TEXT[:3])
    bench.extend(5, TEXT[:2], 4)
    (answer,) = bench.run()
    assert (answer.items[0].start, answer.items[0].token_ids) == (7, TEXT[2:6])


def test_the_latest_question_wins() -> None:
    bench = Bench()
    bench.extend(0, REQUEST.prompt_token_ids, 3, is_first=True)
    bench.run()
    bench.extend(5, TEXT[:1], 7)
    bench.extend(5, TEXT[:4], 2)
    (answer,) = bench.run()
    assert [(item.start, item.token_ids) for item in answer.items] == [(9, TEXT[4:6])]


def test_what_it_does_not_know_it_says() -> None:
    bench = Bench()
    bench.extend(9, (1, 2), 3)
    (answer,) = bench.run()
    assert (answer.items, answer.unknown) == ((), ("r",))
    bench.extend(0, REQUEST.prompt_token_ids, 3, is_first=True)
    bench.run()
    bench.extend(50, (1,), 3)
    assert bench.run()[0].unknown == ("r",)


def test_what_it_cannot_serve_is_answered_with_nothing() -> None:
    bench = Bench(max_num_sequences=1)
    bench.extend(0, REQUEST.prompt_token_ids, 3, is_first=True)
    bench.run()
    bench.extend(0, REQUEST.prompt_token_ids, 3, is_first=True, request_id="other")
    (answer,) = bench.run()
    assert [(item.request_id, item.token_ids) for item in answer.items] == [("other", ())]


def test_closed_and_forgotten_sequences_are_freed() -> None:
    bench = Bench()
    for request_id in ("a", "b"):
        bench.extend(0, REQUEST.prompt_token_ids, 3, is_first=True, request_id=request_id)
    bench.run()
    bench.loop.handle(Close(request_ids=("a", "never seen")))
    assert bench.engine.stats().num_running == 1
    bench.clock.advance(IDLE_TIMEOUT + 1)
    bench.run()
    assert bench.engine.stats().num_running == 0


def test_a_failed_forward_forgets_all_and_goes_on() -> None:
    bench = Bench()
    fails = [True]
    bench.engine.fail = lambda batch: fails.pop() if fails else False
    bench.extend(0, REQUEST.prompt_token_ids, 3, is_first=True)
    assert bench.run() == []
    bench.extend(5, TEXT[:1], 3)
    assert bench.run()[0].unknown == ("r",)
    bench.extend(0, REQUEST.prompt_token_ids, 3, is_first=True)
    assert bench.run()[0].items[0].token_ids == TEXT[:3]
