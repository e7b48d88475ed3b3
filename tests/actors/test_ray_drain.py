"""Draining on Ray, with toy engines: an actor in its owner's placement group finishes what it runs, or hands it on."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from actors.config import NAMESPACE, RouterConfig, WorkerConfig
from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError
from actors.engine.request import Request
from actors.router_client import RouterClient
from actors.start import WorkerHandle, bundle, start_router, start_worker
from tests.actors.fakes import ToyEngineFactory, expected_tokens, make_request

POOL = "drained"
ROUTER = RouterConfig(report_interval=0.1)
WORKER = WorkerConfig(model=ModelConfig(model="toy"), num_cpus=0.5)


@asynccontextmanager
async def cluster(*names: str) -> AsyncIterator[tuple[RouterClient, dict[str, WorkerHandle]]]:
    """A router, and targets that live in a placement group each."""
    router = start_router(ROUTER)
    groups = {name: placement_group([bundle(WORKER)]) for name in names}
    workers = {
        name: start_worker(
            "target", POOL, WORKER, ROUTER, worker_id=name, engine_factory=ToyEngineFactory(), group=groups[name]
        )
        for name in names
    }
    client = await RouterClient.connect()
    try:
        while sum(worker.is_alive for worker in (await client.stats()).workers) < len(names):
            await asyncio.sleep(0.05)
        yield client, workers
    finally:
        await client.close()
        for name in names:
            workers[name].kill()
            remove_placement_group(groups[name])
        ray.kill(router, no_restart=True)


async def tokens(client: RouterClient, request: Request) -> tuple[int, ...]:
    """All tokens of a request."""
    found: list[int] = []
    async for delta in client.generate(request, POOL):
        assert not delta.error, delta.error
        found += delta.token_ids
    return tuple(found)


@pytest.mark.parametrize("timeout", [60.0, 0.2])
def test_what_a_leaving_target_runs_is_finished_or_moved(local_ray: None, timeout: float) -> None:
    async def run() -> None:
        async with cluster("slipstream-target-a", "slipstream-target-b") as (client, workers):
            requests = [make_request(f"r{n}", 5, 300, seed=n) for n in range(4)]
            running = [asyncio.create_task(tokens(client, request)) for request in requests]
            while any(w.num_requests < 2 for w in (await client.stats()).workers):
                await asyncio.sleep(0.02)
            begin = time.monotonic()
            await workers["slipstream-target-a"].drain(timeout)
            drained = time.monotonic() - begin
            moved = (await client.stats()).num_requests
            assert [await task for task in running] == [expected_tokens(request) for request in requests]
            stats = await client.stats()
            assert stats.num_failed == 0
            assert not next(w for w in stats.workers if w.info.worker_id.endswith("-a")).is_alive
            assert moved <= 2 if timeout > 1 else moved == 4, (drained, moved)
            with pytest.raises(ValueError, match="slipstream-target-a"):
                ray.get_actor("slipstream-target-a", namespace=NAMESPACE)

    asyncio.run(run())


def test_a_bundle_is_what_a_worker_takes() -> None:
    worker = msgspec.structs.replace(WORKER, num_gpus=4.0, resources={"slipstream-target": 1.0})
    assert bundle(worker) == {"CPU": 0.5, "GPU": 4.0, "slipstream-target": 1.0}
    assert bundle(msgspec.structs.replace(WORKER, num_cpus=0.0)) == {}
    with pytest.raises(ConfigError, match="resources: GPU is Ray's own"):
        WorkerConfig(model=ModelConfig(model="toy"), resources={"GPU": 1.0})
