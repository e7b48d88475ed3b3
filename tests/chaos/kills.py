"""Kills targets, drafts and the router under running streams, and compares every stream with its undisturbed run."""

import asyncio
import os
import random
import signal
import statistics
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Literal

from tqdm import tqdm

from actors.config import Role, RouterConfig, WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.errors import GenerationError, SlipstreamError
from actors.engine.request import Request
from actors.router_client import RouterClient
from actors.start import get_router
from cluster.config import ClusterConfig, PoolConfig
from cluster.session import Cluster
from cluster.tokenization import load_tokenizer
from tests.chaos.outcome import Outcome
from tests.chaos.streams import KINDS, Crowd, Stream, cases

COUNT = 60
CROWD = 6
NUM_TARGETS = 2
NUM_NEW_TOKENS = 250
PAUSES = (0.2, 5.0)  # seconds between two kills, drawn evenly
RECOVERY_TIMEOUT = 600.0
POLL_INTERVAL = 0.05

Victim = Literal["target", "draft", "router"]
VICTIMS: tuple[Victim, ...] = ("target", "draft", "router")


@dataclass(frozen=True)
class Kill:
    """One death: who, and when on the clock of the streams."""

    victim: Victim
    at: float


def config() -> ClusterConfig:
    """The embedded pair in float32 without quantization: its tokens do not depend on the shape of a batch."""

    def worker(model: str) -> WorkerConfig:
        return WorkerConfig(
            model=ModelConfig(model=model, dtype="float32"),
            engine=EngineConfig(num_blocks=1024, max_num_seqs=16),
            num_cpus=0.5,
        )

    return ClusterConfig(
        name="chaos",
        target=PoolConfig(worker=worker("demo"), replicas=NUM_TARGETS),
        draft=PoolConfig(worker=worker("demo-draft")),
        router=RouterConfig(num_assistant_tokens=3),
    )


def run(count: int, seed: int, num_new_tokens: int = NUM_NEW_TOKENS) -> Outcome:
    """Start a cluster, run every case undisturbed, then a crowd of them while ``count`` actors are killed."""
    with Cluster.start(config()) as cluster:
        return asyncio.run(_run(cluster.config, count, random.Random(seed), num_new_tokens))


async def _run(config: ClusterConfig, count: int, source: random.Random, num_new_tokens: int) -> Outcome:
    requests = cases(load_tokenizer(config.target.worker.model), num_new_tokens)
    client = await RouterClient.connect()
    try:
        calm = await undisturbed(client, config.name, requests)
        order = source.sample(sorted(requests), len(requests))
        crowd = Crowd(client, config.name, [requests[name] for name in order], CROWD)
        kills = await kill(client, crowd, plan(count, source), source)
        await crowd.finish()
    finally:
        await client.close()
    expected = {stream.case: stream.outcome for stream in calm}
    settings = {
        "targets": NUM_TARGETS,
        "crowd": CROWD,
        "new_tokens": num_new_tokens,
        "pauses": PAUSES,
        "kinds": list(KINDS),
        "model": config.target.worker.model.model,
        "dtype": config.target.worker.model.dtype,
    }
    return report(settings, calm, crowd.streams, kills, expected)


def plan(count: int, source: random.Random) -> list[Victim]:
    """Who dies, in what order: each role as often as the others."""
    victims = [VICTIMS[index % len(VICTIMS)] for index in range(count)]
    source.shuffle(victims)
    return victims


async def undisturbed(client: RouterClient, model: str, requests: dict[str, Request]) -> list[Stream]:
    """Run every case once in a crowd that nobody disturbs."""
    crowd = Crowd(client, model, requests.values(), CROWD)
    with tqdm(total=len(requests), unit="stream", desc="undisturbed", dynamic_ncols=True) as progress:
        while len(crowd.streams) < len(requests):
            await asyncio.sleep(POLL_INTERVAL)
            progress.update(len(crowd.streams) - len(crowd.open()) - progress.n)
        await crowd.finish()
        progress.update(len(requests) - progress.n)
    return crowd.streams


async def kill(client: RouterClient, crowd: Crowd, victims: list[Victim], source: random.Random) -> list[Kill]:
    """Kill one after the other at random moments, without waiting for the cluster to recover."""
    kills: list[Kill] = []
    with tqdm(victims, unit="kill", dynamic_ncols=True) as progress:
        for victim in progress:
            await asyncio.sleep(source.uniform(*PAUSES))
            pid = await _find(client, victim, source)
            os.kill(pid, signal.SIGKILL)
            kills.append(Kill(victim, time.monotonic()))
            num_errors = sum(bool(stream.error) for stream in crowd.streams)
            progress.set_postfix_str(f"{victim} died; {len(crowd.streams)} streams, {num_errors} errors")
    return kills


async def _find(client: RouterClient, victim: Victim, source: random.Random) -> int:
    """Return the pid of a living actor of a role, waiting for one where all are being restarted."""
    deadline = time.monotonic() + RECOVERY_TIMEOUT
    while True:
        if victim == "router":
            pids = [await asyncio.to_thread(_router_pid)]
        else:
            pids = await _worker_pids(client, victim)
        alive = [pid for pid in pids if pid and os.path.exists(f"/proc/{pid}")]
        if alive:
            return source.choice(alive)
        assert time.monotonic() < deadline, f"no {victim} has come back within {RECOVERY_TIMEOUT:g} s"
        await asyncio.sleep(POLL_INTERVAL)


async def _worker_pids(client: RouterClient, role: Role) -> list[int]:
    try:
        stats = await client.stats()
    except GenerationError:
        return []
    return [worker.info.pid for worker in stats.workers if worker.is_alive and worker.info.role == role]


def _router_pid() -> int:
    import ray

    try:
        pid: int = ray.get(get_router().__ray_call__.remote(lambda _: os.getpid()))
    except (ray.exceptions.RayError, SlipstreamError):
        return 0
    return pid


def report(
    settings: dict[str, Any],
    calm: list[Stream],
    streams: list[Stream],
    kills: list[Kill],
    expected: dict[str, Any],
) -> Outcome:
    """Compare every stream with its undisturbed run, and measure the silences around the kills."""
    wrong = [stream for stream in streams if stream.error or stream.outcome != expected[stream.case]]
    gaps: defaultdict[str, list[float]] = defaultdict(list)
    since = 0.0
    for one in kills:
        found = [gap for stream in streams if (gap := stream.gap_at(one.at, since)) is not None]
        if found:
            gaps[one.victim].append(max(found))
        since = one.at
    calm_gaps = [stream.longest_gap for stream in calm]
    num_hit = sum(any(s.times[0] < one.at < s.times[-1] for one in kills) for s in streams)
    figures = {
        "kills": dict(Counter(one.victim for one in kills)),
        "streams": len(streams),
        "streams_hit": num_hit,
        "streams_by_kind": dict(Counter(stream.case.rpartition("-")[0] for stream in streams)),
        "tokens": sum(len(stream.token_ids) for stream in streams),
        "differences": len(wrong),
        "gap_seconds": {
            role: {"p50": statistics.median(values), "max": max(values), "n": len(values)}
            for role, values in {**gaps, "undisturbed": calm_gaps}.items()
        },
        "settings": settings,
    }
    failures = [_difference(stream, expected[stream.case][0]) for stream in wrong]
    what = "SIGKILL of a target, the draft or the router at random moments; the worst silence of any stream at each"
    return Outcome("kills", what, figures, failures)


def _difference(stream: Stream, expected: tuple[int, ...]) -> str:
    if stream.error:
        return f"{stream.case}: {stream.error}"
    pairs = enumerate(zip(stream.token_ids, expected, strict=False))
    first = next((n for n, (a, b) in pairs if a != b), min(len(stream.token_ids), len(expected)))
    return f"{stream.case}: differs from token {first} on, {len(stream.token_ids)} of {len(expected)} tokens"
