"""Starting a cluster, finding it again, and ending it."""

import asyncio

import pytest
import ray

from actors.config import RouterConfig, WorkerConfig
from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError, DoesNotFitError, SlipstreamError
from actors.router_client import RouterClient
from cluster.config import ClusterConfig, PoolConfig
from cluster.session import Cluster, needed
from cluster.tokenization import load_tokenizer
from tests.actors.fakes import ToyEngineFactory, expected_tokens, make_request


def make_config(num_gpus: float = 0.0, replicas: int = 1) -> ClusterConfig:
    worker = WorkerConfig(model=ModelConfig(model="toy"), num_cpus=0.5, num_gpus=num_gpus)
    pool = PoolConfig(worker=worker, replicas=replicas)
    return ClusterConfig(name="toy", target=pool, draft=pool, router=RouterConfig(report_interval=0.1))


def test_a_cluster_is_started_found_and_ended(local_ray: None) -> None:
    config = make_config()

    async def run() -> tuple[int, ...]:
        client = await RouterClient.connect()
        try:
            deltas = [delta async for delta in client.generate(make_request("one"), "toy")]
        finally:
            await client.close()
        return tuple(token_id for delta in deltas for token_id in delta.token_ids)

    with Cluster.start(config, engine_factory=ToyEngineFactory()) as cluster:
        assert [worker.info.role for worker in cluster.stats().workers] == ["draft", "target"]
        found = Cluster.connect()
        assert found.config == config
        assert asyncio.run(run()) == expected_tokens(make_request("one"))
        with pytest.raises(SlipstreamError, match="runs on this Ray already"):
            Cluster.start(config, engine_factory=ToyEngineFactory())
        found.shutdown()
        assert len(cluster.stats().workers) == 2, "who only connected ends nothing"
    cluster.shutdown()
    assert ray.is_initialized(), "Ray was there before"
    with pytest.raises(SlipstreamError, match="no Slipstream cluster runs"):
        Cluster.connect()


def test_what_loading_raises_comes_through(local_ray: None) -> None:
    problem = DoesNotFitError("needs 3 GiB, but 2 GiB are free")
    with pytest.raises(DoesNotFitError, match="needs 3 GiB, but 2 GiB are free") as raised:
        Cluster.start(make_config(), engine_factory=ToyEngineFactory(error=problem))
    assert "Ray" not in str(raised.value)
    with pytest.raises(SlipstreamError, match=r"target-toy-0 could not load 'toy': ZeroDivisionError"):
        Cluster.start(
            ClusterConfig(name="toy", target=make_config().target),
            engine_factory=ToyEngineFactory(error=ZeroDivisionError("oh")),
        )
    with pytest.raises(SlipstreamError, match="no Slipstream cluster runs"):
        Cluster.connect()


def test_what_workers_need_is_added_up() -> None:
    assert needed(make_config(num_gpus=2, replicas=3)) == (3.0, 12.0)


def test_a_model_without_tokenizer_is_a_clear_error(tmp_path: object) -> None:
    (tmp_path / "config.json").write_text("{}")  # type: ignore[operator]
    with pytest.raises(ConfigError, match="has no tokenizer"):
        load_tokenizer(ModelConfig(model=str(tmp_path)))
