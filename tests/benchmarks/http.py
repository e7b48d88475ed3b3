"""What HTTP adds: to the time to a first token, over the engine called directly; to a stream, over bare Starlette."""

import contextlib
import json
import selectors
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import psutil
from tqdm import tqdm

from actors.config import SimulationConfig
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from actors.simulated_engine import SimulatedEngine
from tests.benchmarks.http_servers import ENGINE
from tests.benchmarks.measure import Bar, Report, interleave, sample
from tests.served import VOCAB_SIZE, served, simulated, until

NUM_TOKENS = 2000
NUM_STREAMS = 16
NUM_FIRST_TOKENS = 100
PROMPT = "It was a dark night, and the old house at the end of the lane"
MUST_MS, MUST_RATIO = 10.0, 0.5
HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}  # Serve's other proxy, which asks replicas directly


def run(repeats: int) -> Report:
    """Measure and report: milliseconds to a first token, tokens a second streamed."""
    report = Report(
        name="http",
        what="a model that costs nothing: ms to a first token, and tokens/s streamed, one token an event",
        settings={"tokens_per_stream": NUM_TOKENS, "streams": NUM_STREAMS, "first_tokens": NUM_FIRST_TOKENS},
    )
    compare_streams(report, repeats)
    compare_first_tokens(report, repeats)
    return report


def compare_streams(report: Report, repeats: int) -> None:
    """The door alone, its model in the same process, against Starlette."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ours = stack.enter_context(serving("slipstream"))
        file = Path(folder) / "events.json"
        file.write_text(json.dumps(record(ours.port)))
        servers = {"door": ours} | {
            name: stack.enter_context(serving(name, str(file))) for name in ("starlette", "starlette-bytes")
        }
        contenders: dict[str, Callable[[], float]] = {
            f"{name}, {count} streams": partial(speed, server.port, count)
            for count in (1, NUM_STREAMS)
            for name, server in servers.items()
        }
        report.samples |= interleave(contenders, unit="tok/s", repeats=repeats)
        for name, server in servers.items():
            before = server.cpu_seconds()
            speed(server.port, NUM_STREAMS)
            spent = server.cpu_seconds() - before
            report.settings[f"cpu_us_per_token, {name}"] = spent / (NUM_STREAMS * NUM_TOKENS) * 1e6
        report.samples["first token, door"] = sample("ms", first_tokens(ours.port))
    for count in (1, NUM_STREAMS):
        for name, must in (("starlette", MUST_RATIO), ("starlette-bytes", None)):
            ratio = f"{count} streams over {name}"
            report.ratio(ratio, f"door, {count} streams", f"{name}, {count} streams", must)


def compare_first_tokens(report: Report, repeats: int) -> None:
    """The whole road, Serve and router and all, against the engine called directly."""
    direct = sample("ms", [direct_first_token() for _ in range(NUM_FIRST_TOKENS)])
    with served(simulated()) as cluster:
        whole = sample("ms", first_tokens(cluster.port))
        values = [speed(cluster.port, NUM_STREAMS, num_tokens=NUM_TOKENS // 10) for _ in range(repeats)]
    report.samples |= {
        "first token, engine called directly": direct,
        "first token, cluster": whole,
        f"cluster, {NUM_STREAMS} streams": sample("tok/s", values),
    }
    with served(simulated(), HAPROXY) as cluster:
        until(lambda: cluster.get("/ready"), seconds=60)
        report.samples |= {
            "first token, cluster behind HAProxy": sample("ms", first_tokens(cluster.port)),
            f"cluster behind HAProxy, {NUM_STREAMS} streams": sample(
                "tok/s", [speed(cluster.port, NUM_STREAMS, num_tokens=NUM_TOKENS // 10) for _ in range(repeats)]
            ),
        }
    report.settings["ms_added_to_first_token"] = added = whole.median - direct.median
    report.bars.append(Bar(f"{MUST_MS:g} ms over ms added to a first token", MUST_MS / added, 1.0))
    several = f"{NUM_STREAMS} streams"
    report.ratio(f"cluster, {several} over starlette", f"cluster, {several}", f"starlette, {several}", MUST_RATIO)


class Serving:
    """A server that runs: where it listens, and what it costs."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self._process = psutil.Process(pid)

    def cpu_seconds(self) -> float:
        """Processor time so far. Unlike a rate it does not depend on what else the machine does."""
        times = self._process.cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[Serving]:
    """One of the servers in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.benchmarks.http_servers", arguments[0], str(port), *arguments[1:]]
    process = subprocess.Popen(command)

    def is_up() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as response:
            return bool(response.status == 200)
        return False

    try:
        until(is_up, seconds=120)
        yield Serving(port, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def ask(port: int, num_tokens: int) -> socket.socket:
    """Ask for a stream."""
    body = json.dumps({"prompt": PROMPT, "max_tokens": num_tokens, "stream": True, "seed": 1, "ignore_eos": True})
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
        b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body.encode()
    )
    return connection


def speed(port: int, num_streams: int, num_tokens: int = NUM_TOKENS) -> float:
    """Tokens a second of streams side by side, from the first request to the last byte."""
    began = time.perf_counter()
    selector = selectors.DefaultSelector()
    tails: dict[socket.socket, bytes] = {}
    for _ in range(num_streams):
        connection = ask(port, num_tokens)
        selector.register(connection, selectors.EVENT_READ)
        tails[connection] = b""
    while selector.get_map():
        for key, _ in selector.select(timeout=120):
            connection = cast("socket.socket", key.fileobj)
            data = connection.recv(1 << 20)
            if data:
                tails[connection] = (tails[connection] + data)[-64:]
            else:
                assert b"data: [DONE]" in tails[connection], tails[connection]
                selector.unregister(connection)
                connection.close()
    return num_streams * num_tokens / (time.perf_counter() - began)


def record(port: int) -> list[str]:
    """The events of one stream, as they were sent."""
    with ask(port, NUM_TOKENS) as connection:
        data = b"".join(iter(lambda: connection.recv(1 << 20), b""))
    events = [line + "\n\n" for line in data.decode().splitlines() if line.startswith("data: ")]
    assert len(events) > NUM_TOKENS / 2, "so few events are no stream of single tokens"
    return events


def first_tokens(port: int) -> list[float]:
    """Milliseconds from a request to its first event, one request after the other; the first ten do not count."""
    values = []
    for _ in tqdm(range(NUM_FIRST_TOKENS + 10), unit="request", dynamic_ncols=True):
        began = time.perf_counter()
        with ask(port, 8) as connection:
            data = b""
            while b"data: " not in data:
                data += connection.recv(1 << 16)
            values.append((time.perf_counter() - began) * 1e3)
            while connection.recv(1 << 16):
                pass
    return values[10:]


def direct_first_token() -> float:
    """Milliseconds of the engine alone."""
    engine = SimulatedEngine(SimulationConfig(vocab_size=VOCAB_SIZE), ENGINE)
    began = time.perf_counter()
    engine.add(Request(request_id="a", prompt_token_ids=(1,) * 16, params=GenerationParams(max_new_tokens=8)))
    engine.step()
    return (time.perf_counter() - began) * 1e3
