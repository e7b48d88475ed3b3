"""Plans are judged by what came of them, and forgiven in time."""

import pytest

from actors.track_record import MIN_NUM_STEPS, MIN_SHARE, TrackRecord


def test_the_share_is_what_was_kept_of_what_was_promised() -> None:
    record = TrackRecord()
    assert record.share == 1.0
    for _ in range(100):
        record.drafted(kept=2.25, promised=2.5)
    assert record.share == pytest.approx(0.9)
    for _ in range(200):
        record.drafted(kept=3.0, promised=2.5)
    assert record.share == 1.0
    for _ in range(200):
        record.drafted(kept=0.1, promised=2.5)
    assert record.share == MIN_SHARE


def test_the_first_steps_say_nothing() -> None:
    record = TrackRecord()
    for _ in range(MIN_NUM_STEPS - 1):
        record.drafted(kept=1.0, promised=2.0)
    assert record.share == 1.0
    record.drafted(kept=1.0, promised=2.0)
    assert record.share == MIN_SHARE


def test_what_did_not_pay_is_tried_again_some_day() -> None:
    record = TrackRecord()
    for _ in range(50):
        record.drafted(kept=2.0, promised=2.5)
    shares = []
    for _ in range(3):
        for _ in range(200):
            record.undrafted()
        shares.append(record.share)
    assert MIN_SHARE < shares[0] < shares[1] < shares[2] < 1.0
