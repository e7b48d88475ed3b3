"""The way that promises clearly more is taken; what is pinned stays."""

from actors.overlap_switch import FIRST_TRIAL, TRIAL_LENGTH, OverlapSwitch


def trial(switch: OverlapSwitch, rate_on: float, rate_off: float) -> int:
    """Go on to the end of the next trial; how many steps it took."""
    count = 1
    while not switch.note_step():
        count += 1
    switch.settle(rate_on, rate_off)
    return count


def test_what_is_pinned_stays() -> None:
    for pinned in (True, False):
        switch = OverlapSwitch(pinned)
        assert not any(switch.note_step() for _ in range(10_000))
        assert switch.is_on is pinned


def test_the_better_way_is_taken_and_close_ones_change_nothing() -> None:
    switch = OverlapSwitch(None)
    assert switch.is_on
    assert trial(switch, 1.0, 1.03) == FIRST_TRIAL + TRIAL_LENGTH
    assert switch.is_on
    trial(switch, 1.0, 1.2)
    assert not switch.is_on
    trial(switch, 1.02, 1.0)
    assert not switch.is_on
    trial(switch, 1.2, 1.0)
    assert switch.is_on


def test_trials_grow_rare_while_nothing_changes() -> None:
    switch = OverlapSwitch(None)
    counts = [trial(switch, 1.0, 0.5) for _ in range(4)]
    assert counts == sorted(counts)
    assert counts[3] > 3 * counts[1]
