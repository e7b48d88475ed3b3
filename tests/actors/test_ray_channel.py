"""When actors connect directly, and that a cluster without direct connections works as well."""

import asyncio

import pytest
import ray

from actors.config import RouterConfig, WorkerConfig
from actors.engine.config import ModelConfig
from actors.ray_channel import is_direct
from actors.router_client import RouterClient
from actors.start import start_router, start_worker
from tests.actors.fakes import ToyEngineFactory, expected_tokens, make_request


@pytest.mark.parametrize(
    ("channel", "environ", "expected"),
    [
        ("auto", {}, True),
        ("auto", {"RAY_USE_TLS": "0"}, True),
        ("auto", {"RAY_USE_TLS": "1"}, False),
        ("socket", {"RAY_USE_TLS": "1"}, True),
        ("ray", {}, False),
    ],
)
def test_plain_sockets_do_not_undercut_encrypted_calls(channel: str, environ: dict[str, str], expected: bool) -> None:
    assert is_direct(channel, environ) is expected  # type: ignore[arg-type]


def test_actor_calls_alone_are_enough(local_ray: None) -> None:
    config = RouterConfig(channel="ray", report_interval=0.1, num_assistant_tokens=4)
    worker = WorkerConfig(model=ModelConfig(model="toy"), num_cpus=0)
    router = start_router(config, models=("calls",))
    started = [
        start_worker(role, "calls", worker, config, engine_factory=ToyEngineFactory(step_time=0.001))
        for role in ("target", "draft")
    ]

    async def run() -> None:
        client = await RouterClient.connect()
        try:
            while sum(worker.is_alive for worker in (await client.stats()).workers) < 2:
                await asyncio.sleep(0.05)
            assert await router.channel.remote() is None
            request = make_request("by-calls", max_new_tokens=100)
            tokens = [token async for delta in client.generate(request, "calls") for token in delta.token_ids]
            assert tuple(tokens) == expected_tokens(request)
            assert (await client.stats()).num_accepted_tokens > 0
        finally:
            await client.close()

    asyncio.run(run())
    for one in started:
        one.kill()
    ray.kill(router, no_restart=True)
