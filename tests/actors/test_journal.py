"""Deltas may come twice, late or torn; the journal takes each token once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engine.request import Delta, FinishReason
from actors.journal import Gap, Journal
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
