import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.batch.command import resolve_output, running_or_started
from cluster.batch.records import BatchError
from cluster.cli import cli
from cluster.config import ClusterConfig
from cluster.session import Cluster
from tests.actors.fakes import ToyEngineFactory
from tests.cluster.batch.toy_job import config

LINE = json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}) + "\n"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.batch", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def test_errors_are_one_line_before_anything_is_started(tmp_path: Path) -> None:
    source, output = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    source.write_text(LINE + LINE)
    twice = run("--input", str(source), "--output", str(output))
    assert (twice.returncode, twice.stdout) == (1, "")
    assert twice.stderr == "slipstream: custom_id must be unique, but 'a' on lines 1, 2\n"
    assert not output.exists()


def test_a_file_of_lines_that_cannot_be_run_needs_no_cluster(tmp_path: Path) -> None:
    source, output = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    source.write_text("garbage\n" + LINE.replace("POST", "PUT"))
    report = tmp_path / "report.json"
    done = run("--input", str(source), "--output", str(output), "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert "2 requests done, 2 failed" in done.stderr
    assert [json.loads(line)["custom_id"] for line in output.read_text().splitlines()] == [None, "a"]
    assert json.loads(report.read_text())["num_failed"] == 2


def test_both_names_of_the_command_have_the_same_help() -> None:
    output = CliRunner().invoke(cli, ["batch", "--help"]).output
    for option in ("--input", "--output", "--config", "--quantization", "--target-replicas", "--max-in-flight"):
        assert option in output


def test_a_cluster_that_runs_is_used_and_left_running(local_ray: None) -> None:
    def never() -> ClusterConfig:
        raise AssertionError("one runs already")

    with Cluster.start(config(), engine_factory=ToyEngineFactory()) as running:
        with running_or_started("toy", never) as found:
            assert found.config == running.config
        with pytest.raises(BatchError, match="serves 'toy', not 'demo'"), running_or_started("demo", never):
            pass
        assert len(running.stats().workers) == 2


def test_results_do_not_go_into_the_copy_that_a_ray_job_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_output(Path("out.jsonl")) == tmp_path / "out.jsonl"
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert resolve_output(Path("/data/out.jsonl")) == Path("/data/out.jsonl")
    monkeypatch.setenv("SLIPSTREAM_BATCH_DIR", "/data")
    assert resolve_output(Path("out.jsonl")) == Path("/data/out.jsonl")
    monkeypatch.delenv("SLIPSTREAM_BATCH_DIR")
    assert resolve_output(Path("out.jsonl")) == Path.home() / "slipstream-batch" / "out.jsonl"
