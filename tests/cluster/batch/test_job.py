"""Whole jobs over Ray Data, on answerers without a cluster."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from actors.engine.errors import ConfigError, SlipstreamError
from actors.status import ClusterStats
from cluster.batch.answering import Answerer
from cluster.batch.job import BatchJob, run_job
from cluster.batch.progress import Report
from cluster.batch.records import BatchError, request_seed
from cluster.config import ClusterConfig
from tests.cluster.batch.fakes import open_echo


@dataclass
class FakeCluster:
    """Opened as often as asked; ``errors`` are raised by the first attempts."""

    config: ClusterConfig = field(default_factory=ClusterConfig.demo)
    errors: list[Exception] = field(default_factory=list)
    num_opened: int = 0
    num_open: int = 0

    def stats(self) -> ClusterStats:
        return ClusterStats(num_draft_tokens=10, num_accepted_tokens=5)

    @contextlib.contextmanager
    def open(self) -> Iterator["FakeCluster"]:
        self.num_opened += 1
        if self.errors:
            raise self.errors.pop(0)
        self.num_open += 1
        try:
            yield self
        finally:
            self.num_open -= 1


def line(custom_id: str, **body: Any) -> str:
    body = {"prompt": custom_id} | body
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}) + "\n"


@pytest.fixture
def job(tmp_path: Path) -> BatchJob:
    lines = [line(f"r{index}", max_tokens=1 + index % 64) for index in range(40)]
    lines[5:5] = ["garbage\n", line("bad").replace("POST", "PUT")]
    lines += [line("refused", status=400)]
    (tmp_path / "requests.jsonl").write_text("".join(lines))
    return BatchJob(tmp_path / "requests.jsonl", tmp_path / "results.jsonl", seed=3, max_in_flight=32)


def results(job: BatchJob) -> dict[Any, Any]:
    records = [json.loads(record) for record in job.output.read_text().splitlines()]
    return {record["custom_id"] or record["error"]["line"]: record for record in records}


def num_lines(job: BatchJob) -> int:
    return job.output.read_bytes().count(b"\n")


async def no_cluster(config: ClusterConfig) -> Answerer:
    raise SlipstreamError("no router runs")


def run(job: BatchJob, cluster: FakeCluster, open_answerer: Callable[..., Any] = open_echo) -> Report:
    return run_job(job, cluster.open, open_answerer)


def test_every_line_gets_one_result_and_a_second_run_has_nothing_to_do(local_ray: None, job: BatchJob) -> None:
    cluster = FakeCluster()
    report = run(job, cluster)
    found = results(job)
    assert num_lines(job) == len(found) == 43
    assert found["r7"]["response"]["body"] == {"text": f"r7/{request_seed(3, 'r7')}"}
    assert found["refused"]["response"]["status_code"] == 400
    assert found[6]["error"]["line"] == 6
    assert found["bad"]["response"] is None
    assert "method" in found["bad"]["error"]["message"]
    assert (report.num_requests, report.num_done_before, report.num_failed) == (43, 0, 3)
    assert report.num_completion_tokens == 40 * 5
    assert report.acceptance_rate is None, "nothing was drafted between the first look and the last"
    assert cluster.num_open == 0

    again = run(job, cluster)
    assert cluster.num_opened == 1
    assert num_lines(job) == 43
    assert (again.num_done_before, again.num_failed, again.num_completion_tokens) == (43, 3, 0)


def test_a_job_that_was_cut_off_does_the_rest(local_ray: None, job: BatchJob) -> None:
    run(job, FakeCluster())
    whole = job.output.read_bytes()
    expected = {key: record["response"] and record["response"]["body"] for key, record in results(job).items()}
    job.output.write_bytes(whole[: len(whole) // 2])
    cut = whole[: len(whole) // 2].count(b"\n")
    report = run(job, FakeCluster())
    assert report.num_done_before == cut
    assert num_lines(job) == 43
    assert {key: record["response"] and record["response"]["body"] for key, record in results(job).items()} == expected


def test_what_passes_is_tried_again(local_ray: None, job: BatchJob) -> None:
    cluster = FakeCluster(errors=[SlipstreamError("a Slipstream cluster runs on this Ray already")])
    run(job, cluster, open_echo)
    assert cluster.num_opened == 2
    assert num_lines(job) == 43


def test_a_cluster_that_never_answers_ends_the_job_with_the_reason(local_ray: None, job: BatchJob) -> None:
    cluster = FakeCluster()
    with pytest.raises(BatchError, match=r"given up after 2 runs.*no router runs"):
        run_job(job, cluster.open, no_cluster, max_barren_runs=2, rest_seconds=0.0)
    assert cluster.num_opened == 2
    assert cluster.num_open == 0
    assert num_lines(job) == 2, "lines that cannot be run need no cluster"


def test_what_does_not_pass_ends_the_job_at_once(job: BatchJob) -> None:
    cluster = FakeCluster(errors=[ConfigError("no such model")])
    with pytest.raises(ConfigError, match="no such model"):
        run(job, cluster)
    assert cluster.num_opened == 1
