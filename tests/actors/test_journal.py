"""Deltas may come twice, late or torn; the journal takes each token once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engine.params import GenerationParams
from actors.engine.request import Delta, FinishReason, Request, TokenLogprobs
from actors.journal import MIN_TIME, Contradiction, Gap, Journal
from tests.actors.fakes import expected_tokens, make_request

REQUEST = make_request("r", max_new_tokens=20)
TOKENS = expected_tokens(REQUEST)


def delta(start: int, end: int, accepted: int = 0) -> Delta:
    return Delta(
        request_id="r",
        start=start,
        token_ids=TOKENS[start:end],
        num_drafted=accepted,
        num_accepted=accepted,
        finish_reason=FinishReason.LENGTH if end == 20 else None,
    )


def test_an_overlap_is_cut_off_the_front_and_its_accepted_tokens_with_it() -> None:
    journal = Journal(REQUEST)
    assert journal.accept(delta(0, 3)) == delta(0, 3)
    fresh = journal.accept(delta(1, 6, accepted=4))
    assert fresh == delta(3, 6, accepted=2)
    assert journal.accept(delta(2, 5)) is None
    assert journal.resume().emitted_token_ids == TOKENS[:6]


def test_a_gap_is_told_and_changes_nothing() -> None:
    journal = Journal(REQUEST)
    with pytest.raises(Gap):
        journal.accept(delta(2, 4))
    assert journal.token_ids == []


def test_a_contradiction_is_told_and_changes_nothing() -> None:
    journal = Journal(REQUEST)
    journal.accept(delta(0, 5))
    other = Delta(request_id="r", start=3, token_ids=(TOKENS[3], TOKENS[4] + 1, TOKENS[5]))
    with pytest.raises(Contradiction):
        journal.accept(other)
    assert tuple(journal.token_ids) == TOKENS[:5]


def test_what_was_missed_comes_with_its_logprobs() -> None:
    journal = Journal(REQUEST)
    logprobs = tuple(TokenLogprobs(-float(position)) for position in range(5))
    sent = Delta(request_id="r", start=0, token_ids=TOKENS[:5], logprobs=logprobs, prompt_logprobs=logprobs[:2])
    journal.accept(sent)
    assert journal.since(0) == sent
    assert journal.since(3) == Delta(request_id="r", start=3, token_ids=TOKENS[3:5], logprobs=logprobs[3:])
    assert journal.since(5) is None


def test_time_that_has_passed_is_not_given_again() -> None:
    params = GenerationParams(max_new_tokens=5, max_time=10.0)
    journal = Journal(Request(request_id="r", prompt_token_ids=(1,), params=params))
    assert journal.resume(elapsed=4.0).params.max_time == 6.0
    assert journal.resume(elapsed=40.0).params.max_time == MIN_TIME


def test_nothing_follows_the_end() -> None:
    journal = Journal(REQUEST)
    journal.accept(delta(0, 20))
    assert journal.is_finished
    assert journal.accept(delta(19, 20)) is None


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=60))
def test_any_order_gives_the_text_once(spans: list[tuple[int, int]]) -> None:
    journal = Journal(REQUEST)
    emitted: list[int] = []
    for start, length in [*spans, (0, 20)]:
        try:
            fresh = journal.accept(delta(start, min(20, start + length)))
        except Gap:
            continue
        if fresh is not None:
            assert fresh.start == len(emitted)
            emitted += fresh.token_ids
    assert tuple(emitted) == TOKENS
    assert journal.is_finished
