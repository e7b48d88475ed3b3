"""``slipstream bench serve``: a running server at several levels of load, in the words of ``vllm bench serve``."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from cluster.bench.load import Drafting, Load, LoadClient, LoadError, Served
from cluster.bench.machine import stamp
from cluster.bench.picture import pyplot, save

REQUESTS_PER_SLOT = 4
MIN_NUM_REQUESTS = 8


class Spread(msgspec.Struct, frozen=True):
    """Mean, median and 99th percentile, in milliseconds."""

    mean: float
    p50: float
    p99: float


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One level of load. Latencies are milliseconds.

    Attributes:
        concurrency: requests at a time.
        num_requests, num_failed: that were sent, and those without an answer; ``errors`` says why, the first few.
        seconds: from the first request to the last piece.
        num_prompt_tokens, num_tokens: of those that were answered, as the server counts.
        first_token: TTFT, from a request to its first text.
        per_token: TPOT, the mean between a request's tokens behind the first.
        between: ITL, between two pieces of a stream, which can be several tokens where drafts were accepted.
        whole: E2EL, from a request to its last text.
        acceptance: accepted over drafted tokens of the server meanwhile; None where it drafts nothing or does not tell.
    """

    concurrency: int
    num_requests: int
    num_failed: int
    seconds: float
    num_prompt_tokens: int
    num_tokens: int
    first_token: Spread | None
    per_token: Spread | None
    between: Spread | None
    whole: Spread | None
    acceptance: float | None
    errors: tuple[str, ...] = ()

    @property
    def throughput(self) -> float:
        """Tokens a second."""
        return self.num_tokens / self.seconds if self.seconds else 0.0

    @property
    def request_throughput(self) -> float:
        """Answers a second."""
        return (self.num_requests - self.num_failed) / self.seconds if self.seconds else 0.0


class ServeResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome."""

    url: str
    model: str
    settings: dict[str, Any]
    levels: tuple[Level, ...]

    def plain(self) -> dict[str, Any]:
        """As plain data, with the machine and the time."""
        levels = [
            msgspec.to_builtins(one)
            | {"tokens_per_second": one.throughput, "requests_per_second": one.request_throughput}
            for one in self.levels
        ]
        return {"name": "serve", **msgspec.to_builtins(self), "levels": levels, **stamp()}

    def show(self, console: Console) -> None:
        """Print a row for each level, and what went wrong."""
        console.print(
            f"[bold]{self.model}[/] at {self.url}; load: requests at a time; latencies: ms, p50/p99", highlight=False
        )
        console.print(levels_table(self.levels))
        console.print("load: requests at a time; latencies: ms, p50/p99", style="dim", highlight=False)
        for level in self.levels:
            for error in level.errors:
                console.print(f"[red]{level.concurrency} at a time: {error}[/]", highlight=False)

    def draw(self, path: Path) -> Path:
        """Draw tokens a second and latencies over the load as a PNG. Raises ConfigError where matplotlib is missing."""
        figure, (left, right) = pyplot().subplots(1, 2, figsize=(10, 4), layout="constrained")
        loads = [level.concurrency for level in self.levels]
        left.plot(loads, [level.throughput for level in self.levels], "o-")
        left.set_ylabel("tokens/s")
        for name, title in (("first_token", "first token"), ("between", "between pieces")):
            for quantile, style in (("p50", "o-"), ("p99", "s--")):
                known = [(level.concurrency, getattr(level, name)) for level in self.levels if getattr(level, name)]
                points = [(load, getattr(spread, quantile)) for load, spread in known]
                if points:
                    right.plot(*zip(*points, strict=True), style, label=f"{title}, {quantile}", markersize=4)
        right.set_ylabel("ms")
        right.set_yscale("log")
        right.legend(fontsize=8)
        for panel in (left, right):
            panel.set_xscale("log", base=2)
            panel.set_xticks(loads, [str(load) for load in loads])
            panel.set_xlabel("requests at a time")
            panel.grid(alpha=0.3)
        figure.suptitle(f"{self.model} at {self.url}", fontsize=11)
        return save(figure, path)


def levels_table(levels: Sequence[Level]) -> Table:
    """A row for each level of load."""
    headings = ("load", "requests", "tokens/s", "TTFT", "TPOT", "ITL", "E2EL", "accepted")
    table = Table(header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right")
    for one in levels:
        failed = f", {one.num_failed} failed" if one.num_failed else ""
        spreads = [_words(spread) for spread in (one.first_token, one.per_token, one.between, one.whole)]
        accepted = "-" if one.acceptance is None else f"{one.acceptance:.0%}"
        table.add_row(str(one.concurrency), f"{one.num_requests}{failed}", f"{one.throughput:.1f}", *spreads, accepted)
    return table


def measure_server(
    load: Load, prompts: Sequence[str], concurrencies: Sequence[int], num_requests: int | None = None
) -> ServeResult:
    """Measure a server at each concurrency in turn, after one request that does not count.

    Args:
        load: what to ask of which server.
        prompts: taken round and round.
        concurrencies: requests at a time.
        num_requests: at each of them; None is four for each at a time, at least eight.

    Raises:
        LoadError: the server is not there, or even the first request fails.
    """
    return asyncio.run(_measure(load, prompts, concurrencies, num_requests))


async def _measure(
    load: Load, prompts: Sequence[str], concurrencies: Sequence[int], num_requests: int | None
) -> ServeResult:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        client = LoadClient(load, session)
        model = await client.model()
        first = await client.request(prompts[0], model)
        if first.error:
            raise LoadError(f"{load.url}: {first.error}")
        levels = []
        counts = [num_requests or max(MIN_NUM_REQUESTS, REQUESTS_PER_SLOT * c) for c in concurrencies]
        with tqdm(total=sum(counts), unit="request", dynamic_ncols=True, disable=None) as progress:
            for concurrency, count in zip(concurrencies, counts, strict=True):
                progress.set_description(f"{concurrency} at a time")
                asked = list(itertools.islice(itertools.cycle(prompts), count))
                levels.append(await _level(client, asked, model, concurrency, progress.update))
    settings = {
        "endpoint": load.endpoint,
        "max_tokens": load.max_tokens,
        "temperature": load.temperature,
        "ignore_eos": load.ignore_eos,
        "num_prompts": len(prompts),
    }
    return ServeResult(url=load.url, model=model, settings=settings, levels=tuple(levels))


async def _level(
    client: LoadClient, prompts: Sequence[str], model: str, concurrency: int, done: Callable[[], Any]
) -> Level:
    before = await client.drafting()
    began = time.perf_counter()
    served = await client.run(prompts, model, concurrency, done)
    seconds = time.perf_counter() - began
    return summarize(concurrency, served, seconds, before, await client.drafting())


def summarize(
    concurrency: int, served: Sequence[Served], seconds: float, before: Drafting | None, after: Drafting | None
) -> Level:
    """Work out a level's figures. Requests that failed count for nothing but their number."""
    good = [one for one in served if not one.error]
    return Level(
        concurrency=concurrency,
        num_requests=len(served),
        num_failed=len(served) - len(good),
        seconds=seconds,
        num_prompt_tokens=sum(one.num_prompt_tokens for one in good),
        num_tokens=sum(one.num_tokens for one in good),
        first_token=spread([one.arrivals[0] for one in good]),
        per_token=spread([value for one in good if (value := one.seconds_per_token) is not None]),
        between=spread([gap for one in good for gap in one.gaps]),
        whole=spread([one.arrivals[-1] for one in good]),
        acceptance=_acceptance(before, after),
        errors=tuple(dict.fromkeys(one.error for one in served if one.error))[:3],
    )


def spread(seconds: Sequence[float]) -> Spread | None:
    """Mean and percentiles in milliseconds; None of nothing."""
    if not seconds:
        return None
    import numpy as np

    values = 1e3 * np.asarray(seconds)
    return Spread(float(values.mean()), float(np.percentile(values, 50)), float(np.percentile(values, 99)))


def _acceptance(before: Drafting | None, after: Drafting | None) -> float | None:
    if before is None or after is None or after.num_drafted <= before.num_drafted:
        return None
    return (after.num_accepted - before.num_accepted) / (after.num_drafted - before.num_drafted)


def _words(found: Spread | None) -> str:
    return "-" if found is None else f"{found.p50:.0f}/{found.p99:.0f}"
