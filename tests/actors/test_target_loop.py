"""One target's loop with a fake engine: what it tells drafts and the router, and when it stops waiting."""

import msgspec
import pytest

from actors.config import RouterConfig
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from actors.messages import (
    Abort,
    Close,
    Crash,
    Deltas,
    Extend,
    Greet,
    Leave,
    Pair,
    Proposal,
    Proposals,
    Refuse,
    Report,
    SetDraftLength,
    Start,
    Stop,
)
from actors.target_loop import TargetLoop
from tests.actors.fakes import (
    POISON_ID,
    VOCAB_SIZE,
    FakeClock,
    FakeEngine,
    ListLink,
    expected_tokens,
    make_info,
    make_request,
)

CONFIG = RouterConfig(num_assistant_tokens=3, draft_timeout=0.1, report_interval=10.0)
REQUEST = make_request("r", num_prompt=5, max_new_tokens=20)
TEXT = expected_tokens(REQUEST)


class Bench:
    def __init__(self, config: RouterConfig = CONFIG) -> None:
        self.engine, self.link, self.clock = FakeEngine(), ListLink(), FakeClock()
        self.loop = TargetLoop(self.engine, self.link, make_info("target"), "router", config, self.clock)

    def started(self, request: Request = REQUEST, draft_id: str = "draft") -> "Bench":
        self.loop.handle(Start(request=request, draft_id=draft_id))
        return self

    def turn(self) -> None:
        """Run once, and enter what came of it."""
        self.loop.run_once()
        self.loop.handle(Greet())

    def answer(self, start: int, token_ids: tuple[int, ...]) -> None:
        proposal = Proposal(request_id="r", start=start, token_ids=token_ids)
        self.loop.handle(Proposals(draft_id="draft", items=(proposal,)))

    def extends(self) -> list[Extend]:
        return [message for message in self.link.take("draft") if isinstance(message, Extend)]

    def deltas(self) -> list[Deltas]:
        return [message for message in self.link.take("router") if isinstance(message, Deltas)]

    def acknowledged(self) -> "Bench":
        """A draft that has read the prompt; the target has emitted one token and waits for a proposal."""
        self.started()
        self.answer(5, ())
        self.loop.handle(Pair(request_ids=("r",), draft_id=""))
        self.loop.handle(Pair(request_ids=("r",), draft_id="draft"))
        self.answer(5, (VOCAB_SIZE - 1,))
        self.turn()
        return self


def test_the_draft_is_told_the_prompt_before_the_first_step() -> None:
    bench = Bench().started()
    (extend,) = bench.extends()
    (item,) = extend.items
    assert (item.start, item.token_ids, item.num_prompt_tokens) == (0, REQUEST.prompt_token_ids, 5)
    assert item.params == REQUEST.params
    bench.turn()
    assert bench.deltas()[0].items[0].token_ids == TEXT[:1]
    assert bench.loop.has_work(), "nobody waits for a draft that has yet to read the prompt"


def test_a_confirmed_step_tells_only_what_is_new_and_waits() -> None:
    bench = Bench().acknowledged()
    (item,) = bench.extends()[-1].items
    assert (item.start, item.token_ids, item.params) == (5, TEXT[:1], None)
    assert not bench.loop.has_work()
    bench.answer(6, TEXT[1:4])
    assert bench.loop.has_work()
    bench.deltas()
    bench.turn()
    (delta,) = bench.deltas()[0].items
    assert (delta.token_ids, delta.num_accepted) == (TEXT[1:5], 3)


def test_a_late_draft_is_not_waited_for_and_repeated_lateness_suspends_it() -> None:
    bench = Bench().acknowledged()
    bench.extends()
    for _ in range(2):
        bench.clock.advance(0.11)
        assert bench.loop.next_deadline() <= bench.clock()
        bench.turn()
    (item,) = bench.extends()[0].items
    assert item.start == 5, "what was never answered is told again"
    assert bench.loop.has_work()
    for _ in range(3):
        bench.turn()
    assert bench.extends() == []
    bench.clock.advance(0.6)
    bench.turn()
    assert len(bench.extends()) == 1
    assert bench.loop.has_work(), "a draft on trial is not waited for"


def test_a_stale_answer_does_not_end_the_wait() -> None:
    bench = Bench().acknowledged()
    bench.answer(5, TEXT[:3])
    assert not bench.loop.has_work()


def test_an_unknown_sequence_is_told_from_the_start() -> None:
    bench = Bench().acknowledged()
    bench.extends()
    bench.loop.handle(Proposals(draft_id="draft", unknown=("r",)))
    (item,) = bench.extends()[0].items
    assert (item.start, item.num_prompt_tokens) == (0, 5)
    assert item.token_ids == REQUEST.prompt_token_ids + TEXT[:1]
    assert bench.loop.has_work()


def test_an_empty_answer_means_plain_decoding_for_a_while() -> None:
    bench = Bench().acknowledged()
    bench.extends()
    bench.answer(6, ())
    bench.turn()
    bench.turn()
    assert bench.extends() == []


def test_ids_beyond_the_vocabulary_are_cut_off() -> None:
    bench = Bench().acknowledged()
    bench.answer(6, (TEXT[1], VOCAB_SIZE, TEXT[3]))
    bench.deltas()
    bench.turn()
    assert bench.deltas()[0].items[0].num_drafted == 1


@pytest.mark.parametrize("pin", [0, 2])
def test_the_request_pins_its_draft_length(pin: int) -> None:
    params = GenerationParams(max_new_tokens=20, num_assistant_tokens=pin)
    bench = Bench().started(Request(request_id="r", prompt_token_ids=(1, 2), params=params))
    assert [item.num_draft_tokens for extend in bench.extends() for item in extend.items] == [pin] * (pin > 0)


def test_the_router_can_turn_drafting_off() -> None:
    bench = Bench()
    bench.loop.handle(SetDraftLength(num_draft_tokens=0))
    bench.started()
    for _ in range(25):
        bench.turn()
    assert bench.link.take("draft") == []


def test_a_start_that_comes_twice_starts_once() -> None:
    bench = Bench().started().started()
    bench.turn()
    assert not [m for m in bench.link.take("router") if isinstance(m, Refuse)]


def test_a_refused_request_says_why() -> None:
    bench = Bench().started(make_request("long", num_prompt=1500))
    (refusal,) = bench.link.take("router")
    assert isinstance(refusal, Refuse)
    assert (refusal.field, refusal.limit, refusal.worker_id) == ("prompt", "1000", "target")


def test_an_abort_frees_the_sequence_and_tells_the_draft() -> None:
    bench = Bench().acknowledged()
    bench.extends()
    bench.loop.handle(Abort(request_id="r"))
    assert bench.engine.num_unfinished() == 0
    assert bench.link.take("draft") == [Close(request_ids=("r",))]


def test_a_failed_forward_hands_its_sequences_back_and_a_broken_engine_ends_the_loop() -> None:
    bench = Bench()
    poison = Request(request_id="p", prompt_token_ids=(POISON_ID,), params=REQUEST.params)
    for attempt in range(3):
        bench.started().started(poison, draft_id="")
        bench.link.take("router")
        if attempt == 2:
            with pytest.raises(RuntimeError, match="the forward failed"):
                bench.turn()
            return
        bench.turn()
        (crash,) = [m for m in bench.link.take("router") if isinstance(m, Crash)]
        assert set(crash.request_ids) == {"r", "p"}
        assert bench.engine.num_unfinished() == 0


def test_reports_name_what_is_held_and_stopping_says_goodbye() -> None:
    bench = Bench().started()
    bench.clock.advance(11)
    bench.turn()
    (report,) = [m for m in bench.link.take("router") if isinstance(m, Report)]
    assert report.request_ids == ("r",)
    assert not report.is_repeat
    bench.loop.handle(Stop())
    assert bench.loop.is_stopped
    assert bench.link.take("router") == [Leave(worker_id="target")]


OVERLAPPED = RouterConfig(overlap=True, draft_timeout=0.1, report_interval=10.0)


def test_what_was_written_ahead_is_checked_at_once() -> None:
    bench = Bench(msgspec.structs.replace(OVERLAPPED, num_assistant_tokens=3)).acknowledged()
    (item,) = bench.extends()[-1].items
    assert item.num_ahead > 0
    bench.answer(6, TEXT[1:6])
    bench.deltas()
    bench.turn()
    (delta,) = bench.deltas()[0].items
    assert (delta.token_ids, delta.num_accepted) == (TEXT[1:5], 3)
    assert not bench.loop.has_work(), "one id is left of what was written ahead, and three are pinned"
    bench.answer(6, TEXT[1:10])
    assert bench.loop.has_work(), "a piece of what was written meanwhile is all it takes"
    bench.turn()
    (delta,) = bench.deltas()[0].items
    assert delta.token_ids == TEXT[5:9]


def test_a_branch_that_foresaw_the_correction_is_checked_next() -> None:
    bench = Bench(OVERLAPPED).acknowledged()
    wrong = (TEXT[1] + 1) % VOCAB_SIZE
    for token_ids, fork in (((wrong, 1, 2), 0), ((TEXT[1], TEXT[2], TEXT[3]), 6)):
        proposal = Proposal(request_id="r", start=6, token_ids=token_ids, fork=fork)
        bench.loop.handle(Proposals(draft_id="draft", items=(proposal,)))
    bench.deltas()
    bench.turn()
    assert bench.deltas()[0].items[0].token_ids == TEXT[1:2]
    bench.turn()
    assert bench.deltas()[0].items[0].token_ids == TEXT[2:5]


def test_a_pinned_length_follows_its_schedule() -> None:
    params = GenerationParams(max_new_tokens=60, num_assistant_tokens=3, num_assistant_tokens_schedule="heuristic")
    request = Request(request_id="r", prompt_token_ids=REQUEST.prompt_token_ids, params=params)
    bench = Bench(RouterConfig(overlap=False, draft_timeout=10.0)).started(request)
    text = expected_tokens(request)
    bench.turn()
    bench.answer(5, text[:1])
    bench.turn()
    asked = [bench.extends()[-1].items[0].num_draft_tokens]
    position = 2
    for right in (3, 0):
        wrong = (text[position + right] + 1) % VOCAB_SIZE
        drafts = (*text[position : position + right], *((wrong,) * (3 - right)))
        bench.answer(5 + position, drafts)
        bench.turn()
        position += right + 1
        asked.append(bench.extends()[-1].items[0].num_draft_tokens)
    assert asked == [3, 5, 4]


def test_the_last_delta_says_what_drafting_did() -> None:
    bench = Bench().acknowledged()
    bench.link.take("router")
    bench.loop.run_once()  # it waits for the draft
    bench.clock.advance(0.05)
    bench.answer(6, TEXT[1:])  # all at once: what is left after each step is at hand
    for _ in range(10):
        bench.turn()
    *before, last = [delta for message in bench.deltas() for delta in message.items]
    assert last.finish_reason is not None
    assert last.drafting is not None
    assert last.drafting.num_ahead_hits == len(before)
    assert last.drafting.wait_time == pytest.approx(0.05)
    assert all(delta.drafting is None for delta in before)


def test_a_request_without_a_draft_has_nothing_to_say_of_one() -> None:
    bench = Bench().started(draft_id="")
    for _ in range(25):
        bench.turn()
    deltas = [delta for message in bench.deltas() for delta in message.items]
    assert deltas[-1].finish_reason is not None
    assert all(delta.drafting is None for delta in deltas)
