"""The actors on Ray, with toy engines: text comes through, and goes on when actors die."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import psutil
import pytest
import ray

from actors.config import NAMESPACE, ROUTER_NAME, RouterConfig, WorkerConfig
from actors.engine.config import ModelConfig
from actors.engine.errors import OverloadedError, RequestError
from actors.engine.request import FinishReason, Request
from actors.handshake import Endpoint
from actors.router_client import RouterClient
from actors.start import WorkerHandle, start_router, start_worker
from actors.status import ClusterStats, WorkerInfo
from tests.actors.fakes import DEADLY_ID, ToyEngineFactory, expected_tokens, make_request

ROUTER = RouterConfig(max_num_requests=16, num_assistant_tokens=4, report_interval=0.1, draft_timeout=0.25)
WORKER = WorkerConfig(model=ModelConfig(model="toy"), num_cpus=0)
TARGET, DRAFT = "slipstream-target-demo-0", "slipstream-draft-demo-0"


@pytest.fixture(scope="module")
def workers(local_ray: None) -> Iterator[dict[str, WorkerHandle]]:
    router = start_router(ROUTER, models=("demo",))
    started = {
        TARGET: start_worker("target", "demo", WORKER, ROUTER, worker_id=TARGET, engine_factory=ToyEngineFactory()),
        DRAFT: start_worker(
            "draft", "demo", WORKER, ROUTER, worker_id=DRAFT, engine_factory=ToyEngineFactory(step_time=0.001)
        ),
    }
    yield started
    for worker in started.values():
        worker.kill()
    ray.kill(router, no_restart=True)


@asynccontextmanager
async def connected() -> AsyncIterator[RouterClient]:
    """A client of a cluster in which both workers are alive."""
    client = await RouterClient.connect()
    try:
        await until(client, lambda stats: sum(worker.is_alive for worker in stats.workers) == 2)
        yield client
    finally:
        await client.close()


async def until(client: RouterClient, is_so: Callable[[ClusterStats], bool], timeout: float = 90.0) -> ClusterStats:
    deadline = time.monotonic() + timeout
    while not is_so(stats := await client.stats()):
        assert time.monotonic() < deadline, stats
        await asyncio.sleep(0.02)
    return stats


async def collect(
    client: RouterClient, request: Request, at: int = 0, then: Callable[[], Awaitable[Any]] | None = None
) -> tuple[int, ...]:
    """All tokens of a request; once ``at`` of them are there, ``then`` happens."""
    token_ids: list[int] = []
    async for delta in client.generate(request, "demo"):
        assert delta.start == len(token_ids)
        assert not delta.error, delta.error
        token_ids += delta.token_ids
        if then is not None and len(token_ids) >= at:
            await then()
            then = None
    assert then is None
    return tuple(token_ids)


async def kill(worker: WorkerHandle) -> None:
    ray.kill(worker.actor, no_restart=False)


def test_many_requests_are_drafted_and_exact(workers: dict[str, WorkerHandle]) -> None:
    async def run() -> None:
        async with connected() as client:
            requests = [make_request(f"many-{n}", 3 + n, 30 + n, seed=n) for n in range(12)]
            texts = await asyncio.gather(*(collect(client, request) for request in requests))
            assert list(texts) == [expected_tokens(request) for request in requests]
            stats = await until(client, lambda stats: stats.num_generated_tokens >= sum(map(len, texts)))
            assert stats.num_accepted_tokens > 100
            assert stats.num_requests == 0
            assert {worker.info.role for worker in stats.workers} == {"target", "draft"}

    asyncio.run(run())


def test_a_draft_that_dies_is_not_noticed_in_the_text(workers: dict[str, WorkerHandle]) -> None:
    async def run() -> None:
        async with connected() as client:
            request = make_request("draft-dies", max_new_tokens=400)
            text = await collect(client, request, at=40, then=lambda: kill(workers[DRAFT]))
            assert text == expected_tokens(request)
            await until(client, lambda stats: all(worker.is_alive for worker in stats.workers))
            before = (await client.stats()).num_drafts
            request = make_request("draft-back", max_new_tokens=60)
            assert await collect(client, request) == expected_tokens(request)
            await until(client, lambda stats: stats.num_drafts > before)

    asyncio.run(run())


def test_a_target_that_dies_is_not_noticed_in_the_text(workers: dict[str, WorkerHandle]) -> None:
    async def run() -> None:
        async with connected() as client:
            requests = [make_request(f"target-dies-{n}", max_new_tokens=300, seed=n) for n in range(3)]
            texts = await asyncio.gather(
                collect(client, requests[0], at=30, then=lambda: kill(workers[TARGET])),
                *(collect(client, request) for request in requests[1:]),
            )
            assert list(texts) == [expected_tokens(request) for request in requests]

    asyncio.run(run())


def test_a_router_that_dies_is_not_noticed_in_the_text(workers: dict[str, WorkerHandle]) -> None:
    async def kill_router() -> None:
        ray.kill(ray.get_actor(ROUTER_NAME, namespace=NAMESPACE), no_restart=False)

    async def run() -> None:
        async with connected() as client:
            request = make_request("router-dies", max_new_tokens=400)
            assert await collect(client, request, at=40, then=kill_router) == expected_tokens(request)

    asyncio.run(run())


def test_a_request_that_kills_its_target_twice_fails_alone(workers: dict[str, WorkerHandle]) -> None:
    async def run() -> None:
        async with connected() as client:
            good = make_request("neighbour", max_new_tokens=300)
            deadly = Request(request_id="deadly", prompt_token_ids=(DEADLY_ID, 1, 2), params=good.params)

            async def run_deadly() -> str:
                last = [delta async for delta in client.generate(deadly, "demo")][-1]
                assert last.finish_reason is FinishReason.ERROR
                return last.error

            text, error = await asyncio.gather(collect(client, good), run_deadly())
            assert text == expected_tokens(good)
            assert "its target died" in error

    asyncio.run(run())


def test_leaving_a_request_frees_it(workers: dict[str, WorkerHandle]) -> None:
    async def run() -> None:
        async with connected() as client:
            stream = client.generate(make_request("left", max_new_tokens=100_000), "demo")
            async for _ in stream:
                break
            await stream.aclose()  # type: ignore[attr-defined]
            stats = await until(
                client,
                lambda stats: stats.num_requests == 0 and all(w.stats.num_running == 0 for w in stats.workers),
                timeout=5.0,
            )
            assert stats.num_failed <= 1

    asyncio.run(run())


def test_refusals_name_what_is_wrong(workers: dict[str, WorkerHandle]) -> None:
    async def first(client: RouterClient, request: Request, model: str = "demo") -> None:
        async for _ in client.generate(request, model):
            return

    async def run() -> None:
        async with connected() as client:
            with pytest.raises(RequestError, match="no model 'other'") as refused:
                await first(client, make_request("x"), "other")
            assert refused.value.field == "model"
            with pytest.raises(RequestError) as refused:
                await first(client, make_request("y", num_prompt=1500))
            assert (refused.value.field, refused.value.limit) == ("prompt", "1000")
            streams = [client.generate(make_request(f"full-{n}", max_new_tokens=50_000), "demo") for n in range(16)]
            await asyncio.gather(*(anext(stream) for stream in streams))
            with pytest.raises(OverloadedError, match="16 requests are in flight"):
                await first(client, make_request("z"))
            for stream in streams:
                await stream.aclose()  # type: ignore[attr-defined]
            await until(client, lambda stats: stats.num_requests == 0)
            request = make_request("after")
            assert await collect(client, request) == expected_tokens(request)

    asyncio.run(run())


def connections(workers: dict[str, WorkerHandle], router: Any) -> set[str]:
    """Which workers have a direct connection to the router, by what their processes have open."""
    endpoint = msgspec.msgpack.decode(ray.get(router.channel.remote()), type=Endpoint)
    pids = {
        name: msgspec.msgpack.decode(ray.get(w.actor.ready.remote())[0], type=WorkerInfo).pid
        for name, w in workers.items()
    }
    return {
        name
        for name, pid in pids.items()
        if any(c.raddr and c.raddr.port == endpoint.port for c in psutil.Process(pid).net_connections("tcp"))
    }


def test_actors_and_clients_connect_directly_and_again_after_deaths(workers: dict[str, WorkerHandle]) -> None:
    async def run() -> None:
        async with connected() as client:
            router = ray.get_actor(ROUTER_NAME, namespace=NAMESPACE)
            endpoint = await router.channel.remote()
            assert connections(workers, router) == {TARGET, DRAFT}
            request = make_request("direct", max_new_tokens=200)
            assert await collect(client, request, at=20, then=lambda: kill(workers[TARGET])) == expected_tokens(request)
            await until(client, lambda stats: all(worker.is_alive for worker in stats.workers))
            ray.kill(router, no_restart=False)
            again = endpoint
            while again == endpoint:  # a new process has a new key
                with contextlib.suppress(ray.exceptions.RayError):
                    again = await router.channel.remote()
                await asyncio.sleep(0.05)
            await until(client, lambda stats: sum(worker.is_alive for worker in stats.workers) == 2)
            request = make_request("direct-again", max_new_tokens=60)
            assert await collect(client, request) == expected_tokens(request)
            deadline = time.monotonic() + 20
            while connections(workers, router) != {TARGET, DRAFT}:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)

    asyncio.run(run())


def test_health_checks_tell_the_living_from_the_dead(workers: dict[str, WorkerHandle]) -> None:
    async def run() -> None:
        assert await workers[TARGET].check_health()
        info = await workers[TARGET].ready()
        assert (info.worker_id, info.role, info.pool) == (TARGET, "target", "demo")

    asyncio.run(run())
