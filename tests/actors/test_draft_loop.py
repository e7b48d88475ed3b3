"""One draft's loop with a fake engine: what it answers, and what it forgets."""

from actors.config import RouterConfig
from actors.draft_loop import IDLE_TIMEOUT, DraftLoop
from actors.engine.params import GenerationParams
from actors.messages import Close, Extend, ExtendItem, Proposals
from tests.actors.fakes import VOCAB_SIZE, FakeClock, FakeEngine, ListLink, expected_tokens, make_info, make_request

REQUEST = make_request("r", num_prompt=5, max_new_tokens=20)
TEXT = expected_tokens(REQUEST)


class Bench:
    def __init__(self, max_num_sequences: int = 10, agreement: float = 1.0) -> None:
        self.engine = FakeEngine(agreement=agreement, max_num_sequences=max_num_sequences)
        self.link, self.clock = ListLink(), FakeClock()
        config = RouterConfig(report_interval=1.0)
        self.loop = DraftLoop(self.engine, self.link, make_info("draft", "draft"), "router", config, self.clock)

    def extend(
        self,
        start: int,
        token_ids: tuple[int, ...],
        k: int,
        *,
        request_id: str = "r",
        is_first: bool = False,
        ahead: int = 0,
        branches: int = 0,
    ) -> None:
        item = ExtendItem(
            request_id=request_id,
            start=start,
            token_ids=token_ids,
            num_draft_tokens=k,
            num_ahead=ahead,
            num_branches=branches,
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


def test_it_writes_ahead_and_tells_of_it_in_pieces() -> None:
    bench = Bench()
    bench.extend(0, REQUEST.prompt_token_ids, 2, is_first=True, ahead=4)
    answers = bench.run()
    assert [len(answer.items[0].token_ids) for answer in answers] == [2, 6], "no clock moved: few messages"
    assert answers[-1].items[0].token_ids == TEXT[:6]
    bench.extend(5, TEXT[:4], 2, ahead=4)
    answers = bench.run()
    assert answers[0].items[0].start == 9
    assert answers[-1].items[0].token_ids == TEXT[4:10]
    assert bench.engine.stats().num_steps == 10, "what was written ahead was not written again"


def test_a_branch_that_foresaw_the_target_becomes_the_trunk() -> None:
    bench = Bench(agreement=0.0)  # its first choice is always wrong, its second always right
    bench.extend(0, REQUEST.prompt_token_ids, 1, is_first=True, ahead=3, branches=2)
    items = [item for answer in bench.run() for item in answer.items]
    assert {item.fork for item in items} == {0, 5, 6}
    (branch,) = [item for item in items if item.fork == 5][-1:]
    assert branch.token_ids[0] == TEXT[0]
    bench.extend(5, TEXT[:1], 1, ahead=3)
    (first, *_) = bench.run()
    assert first.items[0].token_ids[: len(branch.token_ids) - 1] == branch.token_ids[1:]
    assert bench.engine.stats().num_running == 1, "the old trunk and the other branches are gone"


def test_a_vocabulary_that_is_too_small_means_that_it_cannot_serve() -> None:
    bench = Bench()
    bench.extend(0, (1, 2, 3, 4, VOCAB_SIZE), 3, is_first=True)
    (answer,) = bench.run()
    assert [(item.request_id, item.start, item.token_ids) for item in answer.items] == [("r", 5, ())]
    assert bench.engine.stats().num_running == 0
