"""A draft that misses deadlines is left alone for longer and longer, and taken back at once."""

from actors.health import MAX_BACKOFF, MAX_MISSES, MIN_BACKOFF, DraftHealth


def suspended(now: float = 0.0) -> DraftHealth:
    health = DraftHealth()
    for _ in range(MAX_MISSES):
        health.missed(now)
    return health


def test_one_miss_is_forgiven_several_in_a_row_are_not() -> None:
    health = DraftHealth()
    for _ in range(5):
        health.missed(0.0)
        assert health.can_wait()
        health.answered()
    assert not suspended().can_wait()


def test_it_is_tried_again_with_growing_pauses() -> None:
    health = suspended()
    now, pauses = 0.0, []
    for _ in range(10):
        begin = now
        while not health.can_try(now):
            now += 0.25
        assert not health.can_wait()
        health.tried(now)
        assert not health.can_try(now)
        pauses.append(now - begin)
    assert pauses == sorted(pauses)
    assert pauses[0] == MIN_BACKOFF
    assert pauses[-1] == MAX_BACKOFF


def test_an_answer_takes_it_back() -> None:
    health = suspended()
    health.tried(MIN_BACKOFF)
    health.answered()
    assert health.can_wait()
    assert health.backoff == MIN_BACKOFF
