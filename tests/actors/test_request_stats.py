"""One request's counters, from its deltas, and what only its target knows."""

from actors.engine.request import Delta, DraftingSummary, FinishReason
from actors.registry import FORGET_AFTER
from actors.request_stats import RequestStats, RequestTally
from tests.actors.fakes import make_request
from tests.actors.simulation import Simulation


def test_deltas_are_counted() -> None:
    tally = RequestTally()
    tally.add(Delta(request_id="r", start=0, token_ids=(1,)))
    tally.add(Delta(request_id="r", start=1, token_ids=(2, 3), num_drafted=3, num_accepted=1))
    tally.add(Delta(request_id="r", start=3, token_ids=(4, 5, 6), num_drafted=2, num_accepted=2))
    tally.add(Delta(request_id="r", start=6, finish_reason=FinishReason.TIME, drafting=DraftingSummary(2, 1, 0.25)))
    assert tally.stats() == RequestStats(
        num_steps=3,
        num_drafts=2,
        num_draft_tokens=5,
        num_accepted_tokens=3,
        num_accepted_tokens_per_pos=(2, 1, 0),
        num_ahead_hits=2,
        num_branch_hits=1,
        wait_time=0.25,
    )
    assert tally.num_full == 1
    assert tally.stats().acceptance_rate == 0.6
    assert RequestStats().acceptance_rate is None


def test_what_requests_count_is_what_the_cluster_counts() -> None:
    simulation = Simulation(agreement=0.9)
    for worker in ("target", "draft"):
        simulation.start(worker)
    for _ in range(10):
        simulation.turn()
    simulation.submit(make_request(f"r{seed}", max_new_tokens=40, seed=seed) for seed in range(3))
    simulation.run()
    for _ in range(1000):
        simulation.turn()  # until the next reports
    stats = simulation.router.stats()
    requests = [simulation.tallies[f"r{seed}"].stats() for seed in range(3)]
    assert sum(one.num_draft_tokens for one in requests) == stats.num_draft_tokens > 0
    assert sum(one.num_accepted_tokens for one in requests) == stats.num_accepted_tokens > 0
    assert sum(one.num_ahead_hits for one in requests) == stats.drafting.num_ahead_hits
    assert all(0.0 <= one.wait_time <= stats.draft_wait_time for one in requests)
    for status in stats.workers:
        assert sum(entry.num_steps for entry in status.step_times) == status.stats.num_steps > 0
    simulation.kill("target")
    simulation.clock.advance(FORGET_AFTER + 1.0)
    for _ in range(2):
        simulation.router.tick()  # the first finds the draft silent, and forgets the target
    later = simulation.router.stats()
    assert "target" not in {worker.info.worker_id for worker in later.workers}
    assert later.draft_wait_time == stats.draft_wait_time, "the past stays in the totals"
    assert later.drafting == stats.drafting
