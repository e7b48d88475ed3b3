"""Ten times what a cluster can do: who is refused is told at once, who is accepted is served, and memory stays flat."""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from tqdm import tqdm

from actors.config import RouterConfig
from actors.engine.config import EngineConfig
from tests.chaos.outcome import Outcome
from tests.served import PATH, Served, served, simulated, until

COUNT = 30  # seconds
FACTOR = 10.0
NUM_RUNNING, NUM_WAITING = 8, 8
NUM_TOKENS = 40
STEP_SECONDS = 0.025
CAPACITY = NUM_RUNNING / (NUM_TOKENS * STEP_SECONDS)  # requests a second
NUM_SEEDS = 7
MAX_REFUSAL_MS = 100.0
MAX_GROWTH_MIB = 32.0


@dataclass(frozen=True)
class Answer:
    """What one request met with: its status, when and how long, and whether it is as it must be."""

    seed: int
    status: int
    ms: float
    text: str = ""
    problem: str = ""


def overloaded_config() -> Any:
    """A simulated cluster that does :data:`CAPACITY` requests a second and lets as many wait as run."""
    return simulated(
        engine=EngineConfig(num_blocks=1024, max_num_seqs=NUM_RUNNING, max_num_waiting=NUM_WAITING, max_model_len=256),
        router=RouterConfig(max_num_requests=NUM_RUNNING + NUM_WAITING),
        step_times=((1, STEP_SECONDS),),
    )


async def flood(port: int, seconds: float, rate: float) -> list[Answer]:
    """Send requests at a steady rate, whatever becomes of those before; half of them stream."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    tasks: list[asyncio.Task[Answer]] = []
    timeout = aiohttp.ClientTimeout(total=120)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=timeout, connector=connector) as session:
        with tqdm(total=int(seconds * rate), unit="request", dynamic_ncols=True) as progress:
            for index in range(int(seconds * rate)):
                await asyncio.sleep(max(0.0, began + index / rate - loop.time()))
                tasks.append(asyncio.create_task(ask(session, index % NUM_SEEDS, is_stream=index % 2 == 0)))
                progress.update()
        return list(await asyncio.gather(*tasks))


async def ask(session: aiohttp.ClientSession, seed: int, *, is_stream: bool) -> Answer:
    """One request and what came of it."""
    fields = {"max_tokens": NUM_TOKENS, "ignore_eos": True, "seed": seed, "stream": is_stream}
    began = time.perf_counter()
    try:
        async with session.post(PATH, json={"prompt": "It was a dark night", **fields}) as response:
            content = (await response.read()).decode()
    except (aiohttp.ClientError, TimeoutError) as error:
        return Answer(seed, 0, (time.perf_counter() - began) * 1e3, problem=repr(error))
    ms = (time.perf_counter() - began) * 1e3
    if response.status == 429:
        is_right = "Retry-After" in response.headers and json.loads(content)["error"]["type"] == "rate_limit_error"
        return Answer(seed, 429, ms, problem="" if is_right else f"a refusal out of shape: {content[:200]}")
    if response.status != 200:
        return Answer(seed, response.status, ms, problem=content[:200])
    choices = read_stream(content) if is_stream else [json.loads(content)["choices"][0]]
    is_whole = bool(choices) and choices[-1]["finish_reason"] == "length"
    text = "".join(choice["text"] for choice in choices)
    return Answer(seed, 200, ms, text, "" if is_whole else f"an answer that ends early: {content[-200:]}")


def read_stream(content: str) -> list[dict[str, Any]]:
    """The choices of a stream's chunks; none unless it was ended by [DONE]."""
    events = [line[6:] for line in content.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events[:-1]]
    return [chunk["choices"][0] for chunk in chunks if chunk.get("choices")] if events[-1:] == ["[DONE]"] else []


def overload(server: Served, seconds: float, warm_up: float = 3.0) -> tuple[dict[str, Any], list[str]]:
    """Flood a server. Returns figures and failures."""
    rate = FACTOR * CAPACITY
    asyncio.run(flood(server.port, warm_up, rate))
    until(lambda: server.get("/status")["num_requests"] == 0)
    before = server.resident()
    answers = asyncio.run(flood(server.port, seconds, rate))
    until(lambda: server.get("/status")["num_requests"] == 0)
    after = server.resident()
    growth = {role: after[role] - before.get(role, 0.0) for role in ("ingress", "router", "proxy") if role in after}
    refused = [answer.ms for answer in answers if answer.status == 429]
    accepted = [answer for answer in answers if answer.status == 200]
    failures = sorted({answer.problem for answer in answers if answer.problem})
    texts = {(answer.seed, answer.text) for answer in accepted}
    if len(texts) > NUM_SEEDS:
        failures.append("the same request was answered differently")
    if not accepted or not refused:
        failures.append(f"{len(accepted)} accepted and {len(refused)} refused: that was no overload")
    figures = {
        "capacity_per_second": CAPACITY,
        "offered_per_second": rate,
        "requests": len(answers),
        "accepted": len(accepted),
        "lost": sum(bool(answer.problem) for answer in answers),
        "refusal_ms": percentiles(refused),
        "accepted_ms": percentiles([answer.ms for answer in accepted]),
        "resident_mib_before": before,
        "resident_mib_after": after,
        "growth_mib": growth,
    }
    return figures, failures


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    if len(values) < 2:
        return {}
    return {"p50": statistics.median(values), "p99": statistics.quantiles(values, n=100)[98], "max": max(values)}


def run(count: int, seed: int) -> Outcome:
    """Overload a simulated cluster for ``count`` seconds."""
    with served(overloaded_config()) as server:
        figures, failures = overload(server, seconds=float(count))
    slowest = figures["refusal_ms"].get("max", 0.0)
    if slowest > MAX_REFUSAL_MS:
        failures.append(f"a refusal took {slowest:.0f} ms, and the limit is {MAX_REFUSAL_MS:g}")
    for role, mib in figures["growth_mib"].items():
        if mib > MAX_GROWTH_MIB:
            failures.append(f"the {role} grew by {mib:.0f} MiB")
    return Outcome(
        name="overload",
        what=f"{FACTOR:g} times the capacity of a simulated cluster for {count} s, half of the requests streaming",
        figures={"seconds": count, **figures},
        failures=failures,
    )
