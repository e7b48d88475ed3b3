"""From ``make run`` on a set-up machine to the first streamed token, and what is left behind after Ctrl-C."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from tqdm import tqdm

from tests.benchmarks.measure import Bar, Report, sample

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 180.0


def run(repeats: int) -> Report:
    """Measure and report seconds."""
    report = Report(name="start_up", what="make run on a set-up machine to the first streamed token, seconds")
    values = [first_token() for _ in tqdm(range(min(repeats, 3)), unit="start", dynamic_ncols=True)]
    report.samples["make run to first token"] = sample("s", values)
    report.bars.append(Bar("seconds (aim at most 20)", report.samples["make run to first token"].median, None))
    return report


def first_token() -> float:
    """Start the server, stream one token, stop the server; seconds to the token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.perf_counter()
    server = subprocess.Popen(
        ["make", "run", f"PORT={port}"],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while time.perf_counter() - started < DEADLINE:
            if server.poll() is not None:
                raise RuntimeError(f"make run ended with {server.returncode}")
            if _streams(port):
                return time.perf_counter() - started
            time.sleep(0.1)
        raise RuntimeError(f"no token within {DEADLINE:g} s")
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(60)


def _streams(port: int) -> bool:
    """Whether a first token comes now."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = {"model": "demo", "prompt": "It was a dark night", "max_tokens": 8, "stream": True}
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status == 200 and response.readline().startswith(b"data: {")
    except OSError:
        return False
    finally:
        connection.close()
