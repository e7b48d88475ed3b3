"""A few deaths of each kind in the middle of streams; ``python -m tests.chaos kills`` makes it sixty."""

from tests.chaos.kills import run


def test_deaths_do_not_show_in_streams(local_ray: None) -> None:
    outcome = run(count=3, seed=1, num_new_tokens=80)
    assert not outcome.failures
    assert outcome.figures["kills"] == {"target": 1, "draft": 1, "router": 1}
    assert outcome.figures["streams_hit"] > 0
    assert outcome.figures["differences"] == 0
