"""How good a draft is, as far as it was seen, and the lengths that transformers' schedules give."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.draft_length import Acceptance, expected_tokens, run_probabilities, scheduled_length
from actors.line_fit import LineFit


def test_expected_tokens_is_the_mean_of_the_accepted_run_and_one() -> None:
    assert expected_tokens(0.0, 4) == 1.0
    assert expected_tokens(1.0, 4) == 5.0
    assert expected_tokens(0.5, 2) == pytest.approx(1 + 0.5 + 0.25)


@pytest.mark.parametrize(
    ("accepted", "rejected", "low", "high"), [(4, 0, 0.9, 1.0), (0, 1, 0.0, 0.1), (2, 1, 0.6, 0.72)]
)
def test_acceptance_is_learnt_and_forgotten(accepted: int, rejected: int, low: float, high: float) -> None:
    acceptance = Acceptance()
    assert acceptance.rate == 0.75
    for _ in range(60):
        acceptance.add(accepted, rejected)
    assert low < acceptance.rate < high
    acceptance.add(0, 0)
    assert low < acceptance.rate < high, "a plain step says nothing"
    for _ in range(500):
        acceptance.forget()
    assert acceptance.rate == pytest.approx(0.75, abs=0.01)


def test_little_evidence_promises_more_of_long_runs_than_its_mean() -> None:
    vague, sure = run_probabilities(3.0, 1.0, 8), run_probabilities(3000.0, 1000.0, 8)
    assert sure == pytest.approx([0.75**j for j in range(9)], rel=0.02)
    assert vague[1] == pytest.approx(0.75)
    assert all(a > b for a, b in zip(vague[2:], sure[2:], strict=True))


def test_schedules_are_those_of_transformers() -> None:
    assert [scheduled_length("heuristic", 5, 5, accepted) for accepted in (5, 4, 0)] == [7, 4, 4]
    assert scheduled_length("heuristic_transient", 1, 1, 0) == 1
    assert scheduled_length("constant", 5, 5, 5) == 5
    assert scheduled_length("heuristic", 5, 0, 0) == 5, "a plain step says nothing"


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
