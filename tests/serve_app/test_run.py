"""``serve_forever`` with the embedded pair as a process of its own: up, asked, hung up on, interrupted, gone."""

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.slow
PROGRAM = """
import sys
from cluster.config import ClusterConfig
from serve_app.run import serve_forever
serve_forever(ClusterConfig.demo(), "127.0.0.1", int(sys.argv[1]))
"""


class Served:
    """The running program."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.curl = self.process.stdout.readline().strip()

    def get(self, path: str) -> Any:
        """JSON from a route."""
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return json.load(response)

    def post(self, **body: object) -> http.client.HTTPConnection:
        """Send a completion request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = json.dumps({"prompt": "It was a dark night", "seed": 1} | body)
        connection.request("POST", "/v1/completions", data, {"content-type": "application/json"})
        return connection

    def answer(self, **body: object) -> Any:
        """A whole answer."""
        connection = self.post(**body)
        response = connection.getresponse()
        answer = json.load(response)
        connection.close()
        assert response.status == 200, answer
        return answer

    def processes(self) -> list[str]:
        """The program and all that it started: what lives in its session."""
        command = ["ps", "-o", "pid=,stat=,args=", "-s", str(self.process.pid)]
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        return [line for line in lines if line.split()[1][0] != "Z"]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """One server for all tests here."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    served = Served(port)
    yield served
    if served.process.poll() is None:
        served.process.kill()


def test_it_says_where_it_is(served: Served) -> None:
    assert served.url == f"http://127.0.0.1:{served.port}"
    assert served.get("/ready") == {"status": "ready"}
    roles = [worker["info"]["role"] for worker in served.get("/status")["workers"]]
    assert sorted(roles) == ["draft", "target"]


def test_the_line_that_it_prints_streams_text(served: Served) -> None:
    output = subprocess.run(shlex.split(served.curl), capture_output=True, text=True, timeout=60, check=True).stdout
    *events, done = [line for line in output.splitlines() if line]
    assert done == "data: [DONE]"
    assert "".join(json.loads(event[6:])["choices"][0]["text"] for event in events).strip()


def test_drafting_does_not_show(served: Served) -> None:
    """NF4 kernels can flip a near tie with the batch's shape, so only the beginning must be the same to the token."""
    drafted = served.answer(max_tokens=12, temperature=0, num_assistant_tokens=4, return_token_ids=True)
    plain = served.answer(max_tokens=12, temperature=0, num_assistant_tokens=0, return_token_ids=True)
    assert drafted["choices"][0]["token_ids"][:4] == plain["choices"][0]["token_ids"][:4]
    assert plain["choices"][0]["slipstream"]["num_drafted"] == 0


@pytest.mark.parametrize("is_stream", [True, False])
def test_who_hangs_up_frees_the_cluster_and_harms_nobody(served: Served, is_stream: bool) -> None:
    for _ in range(4):
        connection = served.post(stream=is_stream, max_tokens=900, ignore_eos=True)
        if is_stream:
            response = connection.getresponse()
            assert response.readline().startswith(b"data: ")
            response.close()
        else:
            time.sleep(0.2)
        connection.close()
        begin = time.monotonic()
        while served.get("/status")["num_requests"]:
            assert time.monotonic() - begin < 10
            time.sleep(0.05)
        served.answer(max_tokens=4)
        assert time.monotonic() - begin < 15  # a recalled message would cost the next one half a minute


def test_ctrl_c_leaves_nothing(served: Served) -> None:
    assert len(served.processes()) > 5
    os.killpg(served.process.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
    _, errors = served.process.communicate(timeout=60)
    assert served.process.returncode == 0, errors
    assert "Traceback" not in errors
    begin = time.monotonic()
    while served.processes() and time.monotonic() - begin < 10:
        time.sleep(0.1)
    assert served.processes() == []
    with socket.create_server(("127.0.0.1", served.port)):
        pass
