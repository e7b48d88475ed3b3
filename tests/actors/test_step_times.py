"""Sums of forwards by their tokens, and what lies between two of them."""

import pytest

from actors.status import StepTime
from actors.step_times import StepTimes, step_times_between, sum_step_times


def entered(*forwards: tuple[int, float]) -> StepTimes:
    times = StepTimes()
    for num_tokens, seconds in forwards:
        times.add(num_tokens, seconds)
    return times


def test_forwards_are_gathered_near_knots() -> None:
    entries = entered((1, 0.5), (11, 1.0), (10, 2.0), (0, 9.0), (5000, 4.0), (1, 0.25)).entries()
    assert entries == (StepTime(1, 2, 2, 0.75), StepTime(10, 2, 21, 3.0), StepTime(1024, 1, 5000, 4.0))


def test_what_lies_between_two_accounts() -> None:
    times = entered((1, 0.5), (4, 1.0))
    earlier = times.entries()
    times.add(4, 2.0)
    times.add(2, 0.25)
    assert step_times_between(earlier, times.entries()) == (StepTime(2, 1, 2, 0.25), StepTime(4, 1, 4, 2.0))
    assert step_times_between(earlier, earlier) == ()


def test_a_worker_that_began_anew_counts_whole() -> None:
    earlier = entered((1, 0.5), (1, 0.5), (8, 1.0)).entries()
    later = entered((1, 0.125)).entries()
    assert step_times_between(earlier, later) == later


def test_workers_of_a_pool_add_up() -> None:
    both = sum_step_times([entered((1, 0.5), (3, 1.0)).entries(), entered((3, 0.5)).entries()])
    assert both == (StepTime(1, 1, 1, 0.5), StepTime(3, 2, 6, 1.5))
    assert both[1].seconds == pytest.approx(1.5)
