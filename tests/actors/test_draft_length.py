"""The draft length follows acceptance, load and measured times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.draft_length import PROBE_INTERVAL, Acceptance, best_draft_length, draft_length, expected_tokens
from actors.line_fit import LineFit


def gpu_like(rows: float) -> float:
    """Flat up to 64 rows, then linear: memory-bound, then compute-bound."""
    return 0.020 * max(1.0, rows / 64)


def quick_draft(k: float) -> float:
    return 0.001 + 0.002 * k


def test_expected_tokens_is_the_mean_of_the_accepted_run_and_one() -> None:
    assert expected_tokens(0.0, 4) == 1.0
    assert expected_tokens(1.0, 4) == 5.0
    assert expected_tokens(0.5, 2) == pytest.approx(1 + 0.5 + 0.25)


def test_more_acceptance_means_longer_drafts_and_none_means_none() -> None:
    lengths = [best_draft_length(rate, 1, 7, gpu_like, quick_draft) for rate in (0.0, 0.3, 0.6, 0.8, 0.95)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 0
    assert lengths[-1] == 7


def test_at_high_load_drafting_ends() -> None:
    lengths = [best_draft_length(0.8, load, 7, gpu_like, quick_draft) for load in (1, 8, 16, 64, 256)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 2
    assert lengths[-1] == 0


def test_a_slow_draft_is_not_asked() -> None:
    assert best_draft_length(0.7, 1, 7, gpu_like, lambda k: 0.05 * k) == 0


@given(
    pinned=st.none() | st.integers(0, 64),
    adapted=st.integers(0, 7),
    num_plain_steps=st.integers(0, 100),
    remaining=st.integers(0, 100),
)
def test_no_proposal_reaches_past_the_end(
    pinned: int | None, adapted: int, num_plain_steps: int, remaining: int
) -> None:
    length = draft_length(
        pinned=pinned, adapted=adapted, num_plain_steps=num_plain_steps, num_remaining_tokens=remaining
    )
    assert 0 <= length <= max(0, remaining - 1)
    if pinned is not None:
        assert length == max(0, min(pinned, remaining - 1))


def test_zero_is_tried_again_now_and_then_unless_pinned() -> None:
    def at(num_plain_steps: int, pinned: int | None) -> int:
        return draft_length(pinned=pinned, adapted=0, num_plain_steps=num_plain_steps, num_remaining_tokens=50)

    assert [at(n, None) for n in (0, PROBE_INTERVAL - 1, PROBE_INTERVAL)] == [0, 0, 1]
    assert at(10 * PROBE_INTERVAL, 0) == 0


@pytest.mark.parametrize(("accepted", "low", "high"), [(4, 0.9, 1.0), (0, 0.0, 0.25), (2, 0.6, 0.72)])
def test_acceptance_is_learnt(accepted: int, low: float, high: float) -> None:
    acceptance = Acceptance()
    assert acceptance.rate == 0.75
    for _ in range(40):
        acceptance.add(4, accepted)
    assert low < acceptance.rate < high
    acceptance.add(0, 0)
    assert low < acceptance.rate < high, "a plain step says nothing"


def test_a_line_is_learnt_whatever_its_unit() -> None:
    fit = LineFit(0.015, 0.001, prior_x=16.0)
    assert fit.line()(0) == pytest.approx(0.015)
    for n in range(200):
        fit.add(1 + n % 8, 5.0 + 0.5 * (1 + n % 8))
    assert fit.line()(20) == pytest.approx(15.0, rel=0.05)


def test_a_line_of_one_point_keeps_the_priors_shape() -> None:
    fit = LineFit(0.015, 0.001, prior_x=16.0)
    for _ in range(50):
        fit.add(1, 0.16)
    assert fit.line()(1) == pytest.approx(0.16, rel=0.05)
    assert 0.2 < fit.line()(16) < 0.5


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 10)), max_size=30))
def test_a_line_never_promises_negative_times(points: list[tuple[float, float]]) -> None:
    fit = LineFit(0.015, 0.001, prior_x=16.0)
    for x, y in points:
        fit.add(x, y)
    assert all(fit.line()(x) >= 0 for x in (0, 1, 10, 1000))
