"""Clients that hang up at a random byte of their request or of the answer, or while they wait; what they leave."""

import json
import random
import socket
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from tqdm import tqdm

from actors.config import RouterConfig
from actors.engine.config import EngineConfig
from cluster.config import LimitsConfig
from tests.chaos.outcome import Outcome
from tests.served import Served, embedded, served, until

COUNT = 500
NUM_AT_ONCE = 12
NUM_TOKENS = 400
SETTLE_SECONDS = 60.0

Place = Literal["request", "stream", "answer"]
PLACES: tuple[Place, ...] = ("request", "stream", "answer")


@dataclass(frozen=True)
class Disconnect:
    """One client.

    Attributes:
        place: hangs up while its request is sent, while a stream is read, or while it waits for a whole answer.
        share: of the request's bytes that are sent, or how long the answer is read or waited for, from 0 to 1.
        is_abrupt: by a reset, not by closing in good order.
    """

    place: Place
    share: float
    num_choices: int
    is_abrupt: bool


def plan(count: int, source: random.Random) -> list[Disconnect]:
    """Clients of all kinds in equal parts, in random order."""
    clients = [
        Disconnect(PLACES[index % len(PLACES)], source.random(), source.randint(1, 3), source.random() < 0.5)
        for index in range(count)
    ]
    source.shuffle(clients)
    return clients


def hang_up(port: int, client: Disconnect, max_bytes: int, max_seconds: float) -> None:
    """Be this client."""
    fields = {"max_tokens": NUM_TOKENS, "n": client.num_choices, "ignore_eos": True, "stream": client.place == "stream"}
    body = json.dumps({"prompt": "It was a dark night", **fields}).encode()
    request = (
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        if client.is_abrupt:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if client.place == "request":
            connection.sendall(request[: int(client.share * (len(request) - 1))])
            return
        connection.sendall(request)
        if client.place == "answer":
            time.sleep(client.share * max_seconds)
            return
        num_left = 1 + int(client.share * max_bytes)
        while num_left > 0 and (data := connection.recv(num_left)):
            num_left -= len(data)


def disturb(
    server: Served,
    clients: list[Disconnect],
    *,
    num_at_once: int = NUM_AT_ONCE,
    max_bytes: int = 20_000,
    max_seconds: float = 2.0,
) -> tuple[dict[str, object], list[str]]:
    """Let clients come and go, and look at what is left. Returns figures and failures."""
    expected = server.complete(max_tokens=8)["choices"][0]["text"]
    pids, before = server.pids(), server.resident()
    with ThreadPoolExecutor(num_at_once) as pool, tqdm(total=len(clients), unit="client", dynamic_ncols=True) as bar:
        for _ in pool.map(lambda client: hang_up(server.port, client, max_bytes, max_seconds), clients):
            bar.update()
    began = time.monotonic()
    failures = []
    try:
        until(lambda: is_idle(server), SETTLE_SECONDS)
    except AssertionError:
        failures.append(f"not idle {SETTLE_SECONDS:g} s later: free and all blocks {server.free_blocks()}")
    seconds, blocks = time.monotonic() - began, server.free_blocks()
    if server.pids() != pids:
        failures.append(f"other processes than before: {pids} became {server.pids()}")
    if server.complete(max_tokens=8)["choices"][0]["text"] != expected:
        failures.append("a text differs from that before")
    figures: dict[str, object] = {
        "disconnects": dict(Counter(client.place for client in clients)),
        "seconds_until_idle": seconds,
        "blocks_free_and_all": blocks,
        "same_pids": server.pids() == pids,
        "resident_mib_before": before,
        "resident_mib_after": server.resident(),
    }
    return figures, failures


def is_idle(server: Served) -> bool:
    """Whether nothing is in flight and every block of every worker is free."""
    is_free = all(free == total for free, total in server.free_blocks().values())
    return is_free and server.get("/status")["num_requests"] == 0


def run(count: int, seed: int) -> Outcome:
    """Disturb a server with the embedded pair."""
    config = embedded(
        engine=EngineConfig(num_blocks=2048, max_num_seqs=64),
        router=RouterConfig(num_assistant_tokens=4),
        limits=LimitsConfig(),
    )
    with served(config) as server:
        figures, failures = disturb(server, plan(count, random.Random(seed)))
    return Outcome(
        name="disconnects",
        what="clients that hang up at random bytes of request and answer, streaming or not; the embedded pair",
        figures={"count": count, **figures},
        failures=failures,
    )
