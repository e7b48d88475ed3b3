"""A server under load: a small one in this process, which streams as OpenAI's API does."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from rich.console import Console

from cluster.bench.load import Drafting, Load, LoadClient, LoadError, Served, read_counters
from cluster.bench.serve import ServeResult, levels_table, summarize

PIECES = 4
TOKENS = 7


@dataclass
class ToyServer:
    """Answers with :data:`PIECES` pieces of :data:`TOKENS` tokens; ``fails`` names what goes wrong."""

    fails: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    num_open: int = 0
    most_open: int = 0
    num_answered: int = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_post("/v1/completions", self.answer)
        app.router.add_post("/v1/chat/completions", self.answer)
        return app

    async def models(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers.get("Authorization"))
        return web.json_response({"data": [] if self.fails == "models" else [{"id": "toy"}]})

    async def metrics(self, _: web.Request) -> web.Response:
        drafted = 10 * self.num_answered
        return web.Response(
            text=f'toy:spec_decode_num_draft_tokens_total{{model_name="toy"}} {drafted}\n'
            f'toy:spec_decode_num_accepted_tokens_total{{model_name="toy"}} {0.7 * drafted}\n'
        )

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if self.fails == "status":
            return web.json_response({"error": {"message": "too many"}}, status=429)
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in range(PIECES):
            await asyncio.sleep(0.005)
            text = {"delta": {"content": "x"}} if "messages" in body else {"text": "x"}
            await self.send(response, {"choices": [{"index": 0, **text}]})
            if self.fails == "midway" and piece:
                await self.send(response, {"error": {"message": "the target died"}})
        await self.send(response, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": TOKENS}})
        await response.write(b"data: [DONE]\n\n")
        self.num_open -= 1
        self.num_answered += 1
        return response

    async def send(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@asynccontextmanager
async def connected(toy: ToyServer, **load: Any) -> AsyncIterator[LoadClient]:
    async with TestServer(toy.app()) as server, ClientSession() as session:
        yield LoadClient(Load(url=str(server.make_url("/")), **load), session)


async def run(toy: ToyServer, count: int = 6, concurrency: int = 3, **load: Any) -> list[Served]:
    async with connected(toy, **load) as client:
        return await client.run(["Once"] * count, await client.model(), concurrency, lambda: None)


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_each_piece_is_timed_and_tokens_are_the_servers(endpoint: str) -> None:
    toy = ToyServer()
    served = asyncio.run(run(toy, endpoint=endpoint, api_key="secret", ignore_eos=True, max_tokens=9))
    assert toy.most_open == 3
    assert toy.keys == {"Bearer secret"}
    for one in served:
        assert (len(one.arrivals), one.num_tokens, one.num_prompt_tokens, one.error) == (PIECES, TOKENS, 3, "")
        assert one.seconds_per_token == pytest.approx((one.arrivals[-1] - one.arrivals[0]) / (TOKENS - 1))
        assert min(one.gaps) > 0.0
    assert all(body["stream"] and body["max_tokens"] == 9 and body["ignore_eos"] for body in toy.bodies)
    assert ("messages" in toy.bodies[0]) == (endpoint == "chat")


@pytest.mark.parametrize(("fails", "words"), [("status", "HTTP 429"), ("midway", "the target died")])
def test_failures_are_counted_and_told(fails: str, words: str) -> None:
    served = asyncio.run(run(ToyServer(fails=fails)))
    level = summarize(3, served, 1.0, None, None)
    assert (level.num_requests, level.num_failed, level.num_tokens) == (6, 6, 0)
    assert level.first_token is None
    assert len(level.errors) == 1
    assert words in level.errors[0]


def test_a_server_that_is_not_there_or_serves_nothing_is_an_error() -> None:
    async def ask() -> None:
        async with ClientSession() as session:
            await LoadClient(Load(url="http://127.0.0.1:9"), session).model()

    with pytest.raises(LoadError, match="no server"):
        asyncio.run(ask())
    with pytest.raises(LoadError, match="serves no model"):
        asyncio.run(run(ToyServer(fails="models")))


def test_acceptance_is_read_from_the_servers_counters() -> None:
    async def ask() -> tuple[Drafting | None, Drafting | None]:
        toy = ToyServer()
        async with connected(toy) as client:
            before = await client.drafting()
            await client.run(["Once"] * 2, "toy", 2, lambda: None)
            return before, await client.drafting()

    level = summarize(2, [], 1.0, *asyncio.run(ask()))
    assert level.acceptance == pytest.approx(0.7)


def test_counters_add_up_over_labels_and_prefixes_do_not_matter() -> None:
    text = (
        '# HELP vllm:a_total x\nvllm:a_total{engine="0"} 3\nvllm:a_total{engine="1"} 4.0 1700000000\nb_total 5\nc 6\n'
    )
    assert read_counters(text, ("a_total", "b_total", "missing")) == {"a_total": 7.0, "b_total": 5.0}


def test_percentiles_are_milliseconds_and_the_result_is_shown(tmp_path: Path) -> None:
    served = [Served((0.1 * n, 0.1 * n + 0.3), num_tokens=4, num_prompt_tokens=2) for n in range(1, 11)]
    level = summarize(2, [*served, Served(error="no")], 2.0, Drafting(0, 0), Drafting(0, 0))
    assert level.first_token is not None
    assert [level.first_token.mean, level.first_token.p50] == pytest.approx([550, 550])
    assert level.first_token.p99 == pytest.approx(991)
    assert level.per_token is not None
    assert level.per_token.p50 == pytest.approx(100)
    assert (level.throughput, level.request_throughput, level.acceptance) == (20.0, 5.0, None)
    result = ServeResult(url="http://x", model="toy", settings={}, levels=(level, summarize(1, [], 1.0, None, None)))
    console = Console(file=io.StringIO(), width=80)
    result.show(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "550/991" in text
    assert "2 at a time: no" in text
    assert levels_table(result.levels).row_count == 2
    assert json.loads(json.dumps(result.plain()))["levels"][0]["tokens_per_second"] == 20.0
    assert result.draw(tmp_path / "serve.png").stat().st_size > 1000
