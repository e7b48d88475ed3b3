"""Searches take at most half of the time, and join every step where that costs little."""

import pytest

from actors.engine.fair_share import FairShare


def simulate(own: float, together: float, seconds: float) -> tuple[float, float]:
    """Rates of others' steps and of searches' steps, each over what it were if all steps were such."""
    share = FairShare()
    now, others, searches = 0.0, 0, 0
    while now < seconds:
        has_beams = share.is_due
        elapsed = together if has_beams else own
        share.note(elapsed, has_others=True, has_beams=has_beams)
        now += elapsed
        others += 1
        searches += has_beams
    return others / (seconds / own), searches / (seconds / together)


@pytest.mark.parametrize("ratio", [1.0, 1.3, 2.0, 3.0, 8.0, 40.0])
def test_others_keep_half_of_their_speed_and_searches_get_the_rest(ratio: float) -> None:
    others, searches = simulate(0.01, 0.01 * ratio, 30.0)
    assert others >= 0.48
    assert others + searches >= 0.99
    assert searches >= 0.4


def test_a_long_prefill_does_not_pass_for_a_step() -> None:
    share = FairShare()
    share.note(3.0, has_others=True, has_beams=False)
    num_steps = 0
    while share.is_due:
        share.note(0.1, has_others=True, has_beams=True)
        num_steps += 1
    assert num_steps < 25


def test_nothing_is_owed_once_the_others_are_gone() -> None:
    share = FairShare()
    share.note(5.0, has_others=True, has_beams=True)
    assert not share.is_due
    share.note(5.0, has_others=False, has_beams=True)
    assert share.is_due
