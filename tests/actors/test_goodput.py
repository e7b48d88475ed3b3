"""Plans and waits follow acceptance, load and measured times."""

from typing import Any

import numpy as np
import pytest

from actors.draft_length import run_probabilities
from actors.goodput import Conditions, Plan, best_plan
from actors.prospect import Prospect, worthwhile_wait
from actors.step_curve import StepCurve


def knee_at_64(rows: Any) -> Any:
    """Flat up to 64 rows, then linear: memory-bound, then compute-bound."""
    return 0.020 * np.maximum(1.0, np.asarray(rows) / 64)


def plan(rate: float, num_sequences: int = 1, draft_step: float = 0.002, *, overlap: bool = False, **more: Any) -> Plan:
    conditions = Conditions(num_sequences, knee_at_64, 0.001, draft_step, 7, overlap, **more)
    return best_plan(run_probabilities(1e6 * rate, 1e6 * (1.0 - rate), 8), conditions)


def test_more_acceptance_means_longer_drafts_and_none_means_none() -> None:
    plans = [plan(rate) for rate in (0.0001, 0.3, 0.6, 0.8, 0.95)]
    assert not plans[0].is_drafted
    lengths = [p.num_draft_tokens for p in plans[1:]]
    assert lengths == sorted(lengths)
    assert lengths[-1] == 7
    assert [p.num_ahead for p in plans] == [0] * 5


def test_at_high_load_drafting_ends() -> None:
    plans = [plan(0.8, load) for load in (1, 8, 16, 64, 256)]
    rates = [p.rate for p in plans]
    assert rates == sorted(rates, reverse=True)
    assert [p.is_drafted for p in plans] == [True, True, True, False, False]


def test_a_slow_draft_is_not_asked() -> None:
    assert not plan(0.7, draft_step=0.05).is_drafted
    assert not plan(0.7, draft_step=0.05, overlap=True).is_drafted


def test_the_synchronous_plan_is_the_textbook_optimum() -> None:
    best = max(range(1, 8), key=lambda k: sum(0.8**j for j in range(k + 1)) / (0.020 + 0.001 + 0.004 * k))
    found = plan(0.8, draft_step=0.004)
    assert found.num_draft_tokens == best == 4
    assert found.rate == pytest.approx(sum(0.8**j for j in range(5)) / 0.037, rel=0.01)


def test_overlap_and_foresight_promise_more() -> None:
    apart, ahead = plan(0.8, draft_step=0.004), plan(0.8, draft_step=0.004, overlap=True)
    foreseen = plan(0.8, draft_step=0.004, overlap=True, foresight=0.5)
    assert 1.2 < ahead.rate / apart.rate < 1.3
    assert foreseen.rate > 1.1 * ahead.rate
    assert ahead.num_ahead == 5


def test_rows_that_cost_more_than_they_bring_are_not_checked() -> None:
    found = plan(0.8, 40, overlap=True)
    assert found.num_to_check[7] < 7
    assert plan(0.8, 1, overlap=True).num_to_check[7] == 7


def test_waiting_is_worth_it_only_while_it_beats_the_long_run() -> None:
    soon = Prospect(time=10.0, step=0.004, num_first=1, gains=(0.8, 0.6, 0.4, 0.2))
    assert worthwhile_wait([soon], 100.0, 10.0, 1.0) == pytest.approx(10.004)
    assert worthwhile_wait([soon] * 8, 100.0, 10.0, 1.0) == pytest.approx(10.012)
    assert worthwhile_wait([soon], 1000.0, 9.99, 1.0) == 9.99
    assert worthwhile_wait([], 100.0, 10.0, 1.0) == 10.0
    together = Prospect(time=10.02, step=0.004, num_first=4, gains=(0.8, 0.6, 0.4, 0.2))
    assert worthwhile_wait([together], 50.0, 10.0, 1.0) == pytest.approx(10.02)
    assert worthwhile_wait([together], 50.0, 10.0, 0.01) == 10.0, "never longer than is allowed"


def test_a_kink_is_seen_where_a_line_would_smooth_it() -> None:
    curve = StepCurve(0.015, 0.001, prior_x=16.0)
    for _ in range(20):
        for rows, seconds in ((1, 0.019), (4, 0.019), (5, 0.025), (8, 0.027)):
            curve.add(rows, seconds)
    assert curve.seconds()([1, 4, 5, 8]) == pytest.approx([0.019, 0.019, 0.025, 0.027], rel=0.01)
    assert curve.num_within(1, 1.1) == 4
    assert float(curve.seconds()(16)) > 0.027


def test_one_slow_forward_does_not_bend_the_curve() -> None:
    curve = StepCurve(0.015, 0.001, prior_x=16.0)
    for _ in range(20):
        curve.add(1, 0.020)
    curve.add(1, 5.0)
    assert float(curve.seconds()(1)) < 0.025
