"""Workers that go in good order: nothing new comes to them, what they run finishes or moves, and no text changes."""

import pytest

from actors.config import RouterConfig
from actors.messages import Drain, Leave, Report, Start, Stop
from actors.stopwatch import Stopwatch
from actors.target_loop import TargetLoop
from actors.worker import Worker
from tests.actors.fakes import FakeEngine, ListLink, expected_tokens, make_info, make_request
from tests.actors.simulation import Simulation


class DrainSimulation(Simulation):
    """A simulation in which a worker that has left is gone."""

    def turn(self) -> None:
        super().turn()
        for worker_id, loop in list(self.loops.items()):
            if loop.is_stopped:
                self.kill(worker_id, is_noticed=False)

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.turn()

    def placed(self) -> dict[str, int]:
        """Requests on each worker, as the router has it."""
        return {worker.info.worker_id: worker.num_requests for worker in self.router.stats().workers}

    def check(self) -> None:
        assert not self.errors and not self.refusals
        for request_id, journal in self.journals.items():
            assert self.emitted(request_id) == expected_tokens(journal.request), request_id


def simulation(*workers: str) -> DrainSimulation:
    found = DrainSimulation(config=RouterConfig(num_assistant_tokens=4, draft_timeout=0.05, report_interval=0.02))
    for worker_id in workers:
        found.start(worker_id)
    found.turns(5)
    return found


def test_a_target_that_drains_takes_nothing_new_and_finishes_what_it_has() -> None:
    sim = simulation("target-0", "target-1", "draft-0")
    sim.submit([make_request(f"r{n}", 5, 60, seed=n) for n in range(6)])
    sim.turns(5)
    assert sim.placed()["target-0"] == 3
    sim.loops["target-0"].handle(Drain())
    sim.turns(8)
    draining = next(w for w in sim.router.stats().workers if w.info.worker_id == "target-0")
    assert draining.is_draining and draining.is_alive
    before = sim.placed()["target-0"]
    sim.submit([make_request(f"late{n}", 5, 60, seed=10 + n) for n in range(4)])
    sim.turns(4)
    assert sim.placed()["target-0"] <= before
    assert sim.placed()["target-1"] >= 4
    sim.run()
    sim.turns(60)
    sim.check()
    assert set(sim.loops) == {"target-1", "draft-0"}
    assert sim.engines["target-1"].stats().num_generated_tokens == (3 + 4) * 60  # the other's were finished there


def test_at_its_limit_the_rest_moves_by_the_journal() -> None:
    sim = simulation("target-0", "target-1")
    sim.submit([make_request(f"r{n}", 5, 200, seed=n) for n in range(4)])
    sim.turns(5)
    sim.loops["target-0"].handle(Drain())
    sim.turns(10)
    sim.loops["target-0"].handle(Stop())
    sim.run()
    sim.check()
    assert sim.router.stats().num_failed == 0


def test_a_draft_that_drains_hands_its_sequences_on() -> None:
    sim = simulation("target-0", "draft-0", "draft-1")
    sim.submit([make_request(f"r{n}", 5, 400, seed=n) for n in range(4)])
    sim.turns(20)
    assert sim.placed()["draft-0"] == 2
    sim.loops["draft-0"].handle(Drain())
    sim.turns(60)
    assert "draft-0" not in sim.loops
    assert sim.placed()["draft-1"] == 4
    sim.run()
    sim.check()


@pytest.mark.parametrize("seed", range(5))
def test_a_drain_on_a_bad_network_changes_nothing(seed: int) -> None:
    sim = DrainSimulation(seed=seed, loss=0.1, twice=0.2, delay=0.004)
    for worker_id in ("target-0", "target-1", "draft-0", "draft-1"):
        sim.start(worker_id)
    sim.turns(10)
    sim.submit([make_request(f"r{n}", 5, 40, seed=n) for n in range(6)])
    sim.turns(5)
    sim.loops["target-0"].handle(Drain())
    sim.loops["draft-1"].handle(Drain())
    sim.run()
    sim.check()


def test_the_last_target_may_drain_before_the_next_one_comes() -> None:
    sim = simulation("target-0")
    sim.loops["target-0"].handle(Drain())
    sim.turns(10)
    sim.submit([make_request("r", 5, 20)])
    sim.turns(50)
    assert not sim.emitted("r") and not sim.refusals
    sim.start("target-1")
    sim.run()
    sim.check()


def test_a_workers_drain_ends_with_its_last_sequence_or_with_its_limit() -> None:
    for step_time, timeout in ((0.0, 20.0), (0.3, 0.2)):
        link = ListLink()
        loop = TargetLoop(
            FakeEngine(step_time=step_time), link, make_info("t"), "router", RouterConfig(report_interval=0.05), clock
        )
        worker = Worker(loop, 0.05, on_error=lambda: None)
        worker.start()
        worker.put(Start(request=make_request("r", max_new_tokens=40)))
        worker.drain(timeout)
        assert worker.ended.is_set()
        sent = link.take()
        assert isinstance(sent[-1], Leave)
        assert any(isinstance(message, Report) and message.is_draining for message in sent)
        assert loop.reporter.is_draining


def clock() -> float:
    import time

    return time.monotonic()


def test_a_target_measures_how_long_it_stands_still_for_its_drafts() -> None:
    waited = {}
    for num_drafts in (0, 1):
        config = RouterConfig(num_assistant_tokens=4, draft_timeout=0.5, report_interval=0.05)
        sim = DrainSimulation(delay=0.004, config=config)
        for worker_id in ("target-0", *["draft-0"][:num_drafts]):
            sim.start(worker_id)
        sim.turns(5)
        begin = sim.clock()
        sim.submit([make_request("r", 5, 200)])
        sim.run()
        elapsed = sim.clock() - begin
        sim.turns(20)
        target = next(w for w in sim.router.stats().workers if w.info.role == "target")
        waited[num_drafts] = target.draft_wait_time / elapsed
    assert waited[0] == 0.0
    assert 0.1 < waited[1] < 1.0


def test_a_stopwatch_counts_what_lies_between() -> None:
    watch = Stopwatch()
    for now, is_waiting in ((1.0, False), (2.0, True), (2.5, True), (4.0, False), (9.0, False)):
        watch.note(now, is_waiting=is_waiting)
    assert watch.total == 2.0
