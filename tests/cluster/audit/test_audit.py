"""A whole audit, of a cluster whose tokens, margins and costs are known, and of the embedded pair on Ray."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from actors.config import RouterConfig, WorkerConfig
from actors.engine.config import ModelConfig
from cluster.audit.audit import audit
from cluster.audit.report import AuditReport
from cluster.bench.run_options import RunOptions
from cluster.config import ClusterConfig, PoolConfig
from tests.cluster.bench.fakes import TimedCluster

PROMPTS = ((1, 5, 5, 5, 5, 5, 5), (2, 6, 6, 6, 6, 6, 6))
OPTIONS = RunOptions(max_new_tokens=13, temperature=0.5, draft_lengths=(1, 2), repeats=1)


def audited(cluster: TimedCluster, router: RouterConfig | None = None) -> AuditReport:
    worker = WorkerConfig(model=ModelConfig(model="demo"))
    config = ClusterConfig(name="toy", target=PoolConfig(worker=worker), router=router or RouterConfig())
    with cluster.runner() as runner:
        return audit(runner, config, PROMPTS, OPTIONS, lambda token: f"<{token}>")


def test_equal_texts_and_what_they_cost() -> None:
    cluster = TimedCluster(num_right=9)
    report = audited(cluster)
    assert [(one.mode, one.setting) for one in report.comparisons] == [
        ("greedy", "adaptive"),
        ("greedy", "k = 2"),
        ("sampled", "adaptive"),
        ("sampled", "k = 2"),
    ]
    assert all((one.num_prompts, one.num_equal, one.num_tokens) == (2, 2, 26) for one in report.comparisons)
    assert report.num_divergences == 0
    assert not report.is_broken
    assert [one.name for one in report.figures] == ["plain", "adaptive", "k = 1", "k = 2"]
    by_mode = {params.do_sample for params in (request.params for request in cluster.requests)}
    assert by_mode == {True, False}
    timed = [request.params for request in cluster.requests if request.params.logprobs is None]
    assert timed, "what is timed does not ask for log-probabilities"


def test_divergences_are_counted_with_their_margins() -> None:
    report = audited(TimedCluster(flips=frozenset({(2, 7)})))
    greedy = report.comparisons[0]
    assert (greedy.num_equal, greedy.num_tokens) == (1, 13 + 7)
    (found,) = greedy.divergences
    assert (found.prompt, found.index, found.plain_token, found.assisted_token) == (1, 7, 17, 90)
    assert found.margin == pytest.approx(0.25)
    (sampled,) = report.comparisons[2].divergences
    assert sampled.plain_margin is not None
    assert sampled.plain_margin != pytest.approx(0.25), "noise is part of it"
    assert not report.is_broken, "in bfloat16 that can be"


def test_a_divergence_in_float32_is_broken() -> None:
    assert audited(TimedCluster(flips=frozenset({(1, 3)}), dtype="float32")).is_broken
    assert not audited(TimedCluster(dtype="float32")).is_broken


def test_without_a_draft_there_is_nothing_to_compare() -> None:
    report = audited(TimedCluster(own_length=None))
    assert report.comparisons == ()
    assert [one.name for one in report.figures] == ["plain"]


def test_the_report_is_shown_written_and_drawn(tmp_path: Path) -> None:
    report = audited(TimedCluster(flips=frozenset({(2, 7)})), RouterConfig(overlap=False))
    console = Console(file=io.StringIO(), width=100)
    report.show(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("overlap: off", "near ties", "'<17>'", "0.2500, 0.2500", "k = 2", "accepted at position"):
        assert words in text
    content = json.loads(json.dumps(report.plain()))
    assert content["comparisons"][0]["margins"] == [0.25]
    assert content["figures"][2]["num_draft_tokens"] == 1
    assert content["step_ms_by_tokens"]["draft"] == [[1.0, pytest.approx(2.0)]]
    assert content["machine"]["versions"]
    assert report.draw(tmp_path / "audit.png").stat().st_size > 1000


def test_the_embedded_pair_in_float32_is_exact(tmp_path: Path) -> None:
    """The command as a user runs it, on a Ray of its own."""
    out = tmp_path / "audit.json"
    sizes = ["--num-prompts", "2", "--max-new-tokens", "12", "--draft-lengths", "2", "--repeats", "1"]
    precise = ["--quantization", "none", "--assistant-quantization", "none", "--dtype", "float32"]
    result = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "audit", *sizes, *precise, "--strict", "--json", str(out)],
        capture_output=True,
        text=True,
        timeout=240,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    assert result.returncode == 0, result.stderr
    assert "equal to the token" in result.stdout
    content = json.loads(out.read_text())
    assert content["subject"]["is_exact"] is True
    assert [one["num_equal"] for one in content["comparisons"]] == [2, 2, 2, 2]
    fixed = content["figures"][2]
    assert fixed["num_draft_tokens"] == 2
    assert fixed["measured_over_predicted"]["median"] > 0.0
