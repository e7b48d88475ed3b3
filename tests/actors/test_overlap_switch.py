"""The way that has yielded clearly more is taken; what is pinned stays."""

from actors.overlap_switch import FIRST_TRIAL, NUM_SETTLING, TRIAL_LENGTH, OverlapSwitch


def trial(switch: OverlapSwitch, rate_on: float, rate_off: float) -> int:
    """Go on until a trial has begun and ended; how many steps it took."""
    before, count = switch.is_on, 0
    while switch.is_on is before:
        switch.note_step(rate_on if switch.is_on else rate_off, 1.0)
        count += 1
    for _ in range(TRIAL_LENGTH):
        switch.note_step(rate_on if switch.is_on else rate_off, 1.0)
    return count + TRIAL_LENGTH


def test_what_is_pinned_stays() -> None:
    for pinned in (True, False):
        switch = OverlapSwitch(pinned)
        for _ in range(10_000):
            switch.note_step(1.0, 1.0)
            assert switch.is_on is pinned


def test_the_better_way_is_taken_and_close_ones_change_nothing() -> None:
    switch = OverlapSwitch(None)
    assert not switch.is_on
    assert trial(switch, 1.03, 1.0) == FIRST_TRIAL + TRIAL_LENGTH
    assert not switch.is_on
    trial(switch, 1.2, 1.0)
    assert switch.is_on
    trial(switch, 1.0, 1.02)
    assert switch.is_on
    trial(switch, 1.0, 1.2)
    assert not switch.is_on


def test_steps_right_after_a_change_and_steps_of_unknown_length_say_nothing() -> None:
    switch = OverlapSwitch(None)
    for _ in range(FIRST_TRIAL):
        switch.note_step(1.0, 1.0)
    assert switch.is_on
    for number in range(TRIAL_LENGTH):
        switch.note_step(100.0 if number < NUM_SETTLING else 0.5, 1.0)
    assert not switch.is_on
    other = OverlapSwitch(None)
    for _ in range(FIRST_TRIAL + TRIAL_LENGTH):
        other.note_step(1.0, 0.0)
    assert not other.is_on


def test_trials_grow_rare_while_nothing_changes() -> None:
    switch = OverlapSwitch(None)
    counts = [trial(switch, 0.5, 1.0) for _ in range(4)]
    assert counts == sorted(counts)
    assert counts[3] > 3 * counts[1]
