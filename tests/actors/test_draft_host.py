"""A draft that is asked directly while it drafts for others: both come out of the same forwards."""

import pytest

from actors.config import RouterConfig
from actors.draft_host import DraftHost
from actors.engine_share import EngineShare
from actors.messages import Abort, Crash, Deltas, Drain, Extend, ExtendItem, Proposals, Report, Start
from tests.actors.fakes import FakeClock, FakeEngine, ListLink, expected_tokens, make_info, make_request
from tests.actors.simulation import Simulation

REQUEST = make_request("own", num_prompt=5, max_new_tokens=12)
OTHER = make_request("other", num_prompt=6, max_new_tokens=20, seed=3)
CONFIG = RouterConfig(report_interval=10.0)


class Bench:
    def __init__(self) -> None:
        self.engine = FakeEngine(agreement=1.0)
        self.link, self.clock = ListLink(), FakeClock()
        self.host = DraftHost(self.engine, self.link, make_info("draft", "draft"), "router", CONFIG, self.clock)

    def draft(self) -> None:
        item = ExtendItem(
            request_id="other",
            start=0,
            token_ids=OTHER.prompt_token_ids,
            num_draft_tokens=4,
            num_prompt_tokens=6,
            params=OTHER.params,
        )
        self.host.handle(Extend(target_id="target", items=(item,)))

    def run(self) -> None:
        self.host.run_once()
        while self.host.has_work():
            self.host.run_once()

    def emitted(self) -> tuple[int, ...]:
        deltas = [
            delta for message in self.link.take("router") if isinstance(message, Deltas) for delta in message.items
        ]
        return tuple(token for delta in deltas for token in delta.token_ids)


def test_a_forward_serves_both() -> None:
    bench = Bench()
    bench.host.handle(Start(request=REQUEST))
    bench.draft()
    bench.run()
    assert bench.emitted() == expected_tokens(REQUEST)
    (answer,) = [message for message in bench.link.take("target") if isinstance(message, Proposals)]
    assert answer.items[0].token_ids == expected_tokens(OTHER)[:4]
    assert bench.engine.stats().num_steps == 12, "drafting took no forward of its own"


def test_one_report_tells_of_both() -> None:
    bench = Bench()
    bench.host.handle(Start(request=REQUEST))
    bench.host.run_once()
    reports = [message for message in bench.link.take("router") if isinstance(message, Report)]
    assert [report.request_ids for report in reports] == [("own",)]
    assert reports[0].info.role == "draft"


def test_it_drains_once_nobody_asks_it_any_more() -> None:
    bench = Bench()
    bench.host.handle(Start(request=REQUEST))
    bench.host.run_once()
    bench.host.handle(Drain())
    bench.host.run_once()
    assert not bench.host.is_stopped
    bench.run()
    bench.host.handle(Drain())
    bench.host.run_once()
    assert bench.host.is_stopped


def test_a_request_that_is_taken_back_leaves_the_others() -> None:
    bench = Bench()
    bench.host.handle(Start(request=REQUEST))
    bench.draft()
    bench.host.run_once()
    bench.host.handle(Abort(request_id="own"))
    bench.run()
    assert len(bench.emitted()) < 12
    assert [len(item.token_ids) for message in bench.link.take("target") for item in message.items] == [4]  # type: ignore[union-attr]


def test_a_forward_that_fails_is_told_to_both_sides() -> None:
    bench = Bench()
    fails = [True, True]
    bench.engine.fail = lambda batch: bool(fails) and fails.pop()
    bench.host.handle(Start(request=REQUEST))
    bench.draft()
    bench.host.run_once()
    assert [message.request_ids for message in bench.link.take("router") if isinstance(message, Crash)] == [("own",)]
    bench.draft()
    bench.run()
    assert any(isinstance(message, Proposals) for message in bench.link.take("target"))


def test_each_share_has_its_own() -> None:
    drafts, requests = EngineShare.pair(FakeEngine(agreement=1.0))
    requests.add(REQUEST)
    assert requests.has_work() and not drafts.has_work()
    drafts.open(OTHER)
    drafts.extend("other", 6, (), 1)
    (delta,) = drafts.step()
    assert delta.request_id == "other" and drafts.num_step_tokens == 2
    assert requests.has_work()
    (delta,) = requests.step()
    assert delta.request_id == "own" and requests.num_step_tokens == 0
    drafts.abort("own")
    assert requests.step(), "an id of the other's is none of its own"


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_requests_for_a_draft_survive_its_death(loss: float) -> None:
    simulation = Simulation(agreement=0.7, loss=loss, twice=loss, delay=2 * loss / 10)
    for worker_id in ("target-0", "draft-0", "draft-1"):
        simulation.start(worker_id)
    simulation.submit([make_request(f"t{n}", 4, 60, seed=n) for n in range(4)])
    simulation.submit([make_request(f"d{n}", 5, 60, seed=10 + n) for n in range(4)], model="toy")
    for _ in range(30):
        simulation.turn()
    simulation.kill("draft-0")
    simulation.start("draft-0")
    simulation.run()
    for request_id, journal in simulation.journals.items():
        assert simulation.emitted(request_id) == expected_tokens(journal.request), request_id
    assert simulation.engines["draft-1"].num_added > 0
    assert simulation.engines["target-0"].num_added == 4 or loss
