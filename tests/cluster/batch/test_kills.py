"""A job whose driver is killed while it runs. ``python -m tests.chaos batch`` kills everything, many times."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.batch.records import request_seed
from tests.actors.fakes import expected_tokens
from tests.batch_files import texts, write_lines
from tests.cluster.batch.toy_job import toy_request

NUM_REQUESTS = 160
ROOT = Path(__file__).parents[3]


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The job in a process of its own, on a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.cluster.batch.toy_job", "requests.jsonl", "results.jsonl"]
    with (folder / "job.log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log
        )


def num_results(folder: Path) -> int:
    output = folder / "results.jsonl"
    return output.read_bytes().count(b"\n") if output.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_whose_driver_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    lengths = [20 + index % 40 for index in range(NUM_REQUESTS)]
    write_lines(
        tmp_path / "requests.jsonl",
        (
            {"custom_id": f"r{index}", "method": "POST", "url": "/v1/completions", "body": {"max_tokens": length}}
            for index, length in enumerate(lengths)
        ),
    )
    job = start(tmp_path)
    while num_results(tmp_path) == 0:
        assert job.poll() is None, (tmp_path / "job.log").read_text()[-3000:]
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    done = num_results(tmp_path)
    assert 0 < done < NUM_REQUESTS
    with (tmp_path / "results.jsonl").open("ab") as output:
        output.write(b'{"id":"batch_req_')  # as if it had died while it wrote

    assert start(tmp_path).wait(800) == 0, (tmp_path / "job.log").read_text()[-3000:]
    found = texts(tmp_path / "results.jsonl")
    assert len(found) == NUM_REQUESTS
    for index, length in enumerate(lengths):
        seed = request_seed(0, f"r{index}")
        assert tuple(found[f"r{index}"]["token_ids"]) == expected_tokens(toy_request(length, seed))
