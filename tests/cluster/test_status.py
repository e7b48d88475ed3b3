import json

import pytest
from rich.console import Console

from actors.engine.request import EngineStats
from actors.status import ClusterStats, DraftingStats, WorkerInfo, WorkerStatus
from cluster.status import show_stats, totals, workers_table

STATS = ClusterStats(
    workers=(
        WorkerStatus(
            info=WorkerInfo(
                worker_id="target-0",
                role="target",
                pool="demo",
                model="demo",
                quantization="nf4",
                dtype="bfloat16",
                devices=("cuda:0", "cuda:1"),
            ),
            num_requests=3,
            stats=EngineStats(num_blocks=100, num_free_blocks=75, num_generated_tokens=1234),
        ),
        WorkerStatus(
            info=WorkerInfo(worker_id="draft-0", role="draft", pool="draft", model="demo-draft"),
            is_alive=False,
            last_report=12.4,
        ),
    ),
    num_requests=3,
    num_finished=40,
    num_failed=1,
    num_drafts=10,
    num_draft_tokens=40,
    num_accepted_tokens=30,
    num_accepted_tokens_per_pos=(10, 9, 7, 4),
    num_generated_tokens=1234,
    draft_length=4,
    drafting=DraftingStats(num_rounds=9, num_ahead_hits=6, num_branch_hits=2, idle_time=0.25),
    draft_wait_time=1.5,
    uptime=3723.0,
)


def test_the_table_says_what_each_actor_is_and_does() -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(workers_table(STATS))
    rows = {line.split()[0]: line for line in capture.get().splitlines() if "-0" in line}
    for word in ("target", "demo", "nf4 bfloat16", "cuda:0, cuda:1", "25%", "1234", "alive"):
        assert word in rows["target-0"]
    assert "silent 12 s" in rows["draft-0"]


def test_a_narrow_terminal_still_shows_states_and_figures() -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(workers_table(STATS))
    for word in ("alive", "silent 12 s", "25%", "1234"):
        assert word in capture.get()


def test_totals() -> None:
    load, drafting, bubbles = totals(STATS)
    assert load.startswith("up 1 h 2 min; 3 requests running, 40 finished, 1 failed")
    assert "30 of 40 drafted tokens accepted (75%)" in drafting
    assert drafting.endswith("100%, 90%, 70%, 40%")
    assert bubbles.startswith("9 rounds; drafts at hand 6 times, from second choices 2")
    assert bubbles.endswith("targets 1.5 s, drafts 0.2 s")


def test_a_cluster_that_has_done_nothing() -> None:
    assert totals(ClusterStats(uptime=59.9)) == [
        "up 59 s; 0 requests running, 0 finished, 0 failed; 0 tokens generated",
        "nothing drafted yet",
    ]


def test_plain_data(capsys: pytest.CaptureFixture[str]) -> None:
    show_stats(STATS, as_json=True)
    assert json.loads(capsys.readouterr().out)["num_accepted_tokens"] == 30
