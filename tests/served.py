"""A server as a process of its own, with simulated engines: the whole road but the model."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import psutil

from actors.config import RouterConfig, SimulationConfig, WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from cluster.config import ClusterConfig, LimitsConfig, PoolConfig

PROGRAM = """
import ctypes, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG: whoever started this may be killed
import msgspec
from cluster.config import ClusterConfig
from serve_app.run import serve_forever
serve_forever(msgspec.json.decode(sys.argv[1], type=ClusterConfig), "127.0.0.1", int(sys.argv[2]))
"""
VOCAB_SIZE = 2048  # the embedded tokenizer's
PATH = "/v1/completions"
JSON = {"content-type": "application/json"}


def simulated(
    *,
    engine: EngineConfig | None = None,
    router: RouterConfig | None = None,
    limits: LimitsConfig | None = None,
    step_times: tuple[tuple[int, float], ...] = (),
    has_draft: bool = False,
) -> ClusterConfig:
    """The demo's tokenizer in front of engines that compute nothing."""
    worker = WorkerConfig(
        model=ModelConfig(model="demo"),
        engine=engine or EngineConfig(num_blocks=65536, max_num_seqs=1024, max_model_len=16384),
        simulation=SimulationConfig(step_times=step_times, vocab_size=VOCAB_SIZE),
        num_cpus=0,
    )
    return ClusterConfig(
        target=PoolConfig(worker=worker),
        draft=PoolConfig(worker=worker) if has_draft else None,
        router=router or RouterConfig(),
        limits=limits or LimitsConfig(),
    )


def embedded(*, engine: EngineConfig, router: RouterConfig, limits: LimitsConfig) -> ClusterConfig:
    """The embedded pair, with other bounds than its own."""
    demo = ClusterConfig.demo()
    assert demo.draft is not None
    target = msgspec.structs.replace(demo.target.worker, engine=engine, num_cpus=0)
    draft = msgspec.structs.replace(demo.draft.worker, engine=engine, num_cpus=0)
    return ClusterConfig(target=PoolConfig(worker=target), draft=PoolConfig(worker=draft), router=router, limits=limits)


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str) -> Any:
        """JSON from a route."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as response:
            return json.load(response)

    def free_blocks(self) -> dict[str, tuple[int, int]]:
        """Free and all KV blocks by worker."""
        workers = self.get("/status")["workers"]
        return {w["info"]["worker_id"]: (w["stats"]["num_free_blocks"], w["stats"]["num_blocks"]) for w in workers}

    def pids(self) -> set[int]:
        """Of the workers that live."""
        return {worker["info"]["pid"] for worker in self.get("/status")["workers"] if worker.get("is_alive", True)}

    def request(self, **body: object) -> http.client.HTTPConnection:
        """Send a completion request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", PATH, json.dumps({"prompt": "It was", "seed": 1} | body), JSON)
        return connection

    def complete(self, **body: object) -> Any:
        """A whole answer."""
        connection = self.request(**body)
        response = connection.getresponse()
        answer = json.load(response)
        connection.close()
        assert response.status == 200, answer
        return answer

    def resident(self) -> dict[str, float]:
        """MiB of memory that the server's processes hold, by role."""
        sizes: dict[str, float] = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                title, size = " ".join(process.cmdline()), process.memory_info().rss / 2**20
            except psutil.Error:
                continue
            for role, mark in ROLES.items():
                if mark in title:
                    sizes[role] = sizes.get(role, 0.0) + size
        return sizes


ROLES = {
    "ingress": ":Ingress",
    "proxy": "ProxyActor",
    "router": "RouterActor",
    "target": "TargetActor",
    "draft": "DraftActor",
}


@contextmanager
def served(config: ClusterConfig, environ: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Serve until the context ends."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed below, once the server has ended
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, msgspec.json.encode(config).decode(), str(port)],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **(environ or {})},
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline().startswith("http"):
            errors.seek(0)
            raise RuntimeError(f"the server did not start: {errors.read()[-2000:]}")
        yield Served(process, port)
    finally:
        errors.close()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def until(is_so: Any, seconds: float = 30.0) -> None:
    """Wait for something to be so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {seconds:g} s")
        time.sleep(0.05)
