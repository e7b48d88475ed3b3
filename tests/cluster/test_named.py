"""Processors that a caller names, from Python: in the engine, and where transformers' own code runs a call."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from actors.config import WorkerConfig
from actors.engine.config import ModelConfig
from actors.engine.engine import Engine
from actors.engine.errors import ConfigError, RequestError
from actors.engine.loading import load_model
from actors.engine.params import NamedProcessor
from actors.engine.processor_registry import ProcessorRegistry
from actors.engine_factory import load_engine
from actors.status import WorkerInfo
from cluster.config import ClusterConfig, PoolConfig
from cluster.generation_client import ModelClient
from cluster.model import ClusterModel
from cluster.named import named_processors
from tests.conformance.engine_client import EngineClient
from tests.conformance.generate_matrix import ENGINE, checkpoint
from tests.operator_processors import PATHS, BanEvery, EndAtLength

IDS = torch.tensor([[5, 9, 14, 8]])
NAMES: dict[str, Any] = {
    "logits_processor": [{"name": "ban_every", "args": {"step": 3}}, "ban_odd"],
    "stopping_criteria": [NamedProcessor(name="end_at_length", args={"num_tokens": 11})],
}
OBJECTS: dict[str, Any] = {
    "logits_processor": LogitsProcessorList([BanEvery(3), BanEvery(2, offset=1)]),
    "stopping_criteria": StoppingCriteriaList([EndAtLength(11)]),
}


def pool() -> PoolConfig:
    return PoolConfig(worker=WorkerConfig(model=ModelConfig(model=checkpoint("llama"), dtype="float32"), engine=ENGINE))


@pytest.fixture(scope="module")
def reference() -> Any:
    return load_model(pool().worker.model, ENGINE).model


@pytest.fixture
def client() -> EngineClient:
    loaded = load_model(pool().worker.model, ENGINE)
    return EngineClient(Engine(loaded, ENGINE, registry=ProcessorRegistry.load(PATHS)))


@pytest.fixture
def model(client: EngineClient) -> Iterator[ClusterModel]:
    async def connect() -> ModelClient:
        return client

    with ClusterModel(ClusterConfig(name="matrix", target=pool()), connect) as found:
        yield found


@pytest.mark.parametrize(("extra", "num_native"), [({}, 0), ({"guidance_scale": 1.5}, 1)])
def test_names_do_what_the_objects_do(
    reference: Any, model: ClusterModel, client: EngineClient, extra: dict[str, Any], num_native: int
) -> None:
    want = reference.generate(IDS, max_new_tokens=12, **extra, **OBJECTS)
    found: Any = model.generate(IDS, max_new_tokens=12, **extra, **NAMES)
    assert found.tolist() == want.tolist()
    assert client.num_native == num_native


@pytest.mark.parametrize("extra", [{}, {"guidance_scale": 1.5}])
def test_unknown_names_are_refused(model: ClusterModel, extra: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="only ban_every, ban_odd"):
        model.generate(IDS, max_new_tokens=3, logits_processor=["ban_event"], **extra)


def test_names_and_objects_are_not_mixed() -> None:
    with pytest.raises(RequestError, match="not a mix"):
        named_processors("logits_processor", ["ban_odd", BanEvery(3)])
    with pytest.raises(RequestError, match="nmae"):
        named_processors("logits_processor", [{"nmae": "ban_odd"}])
    assert named_processors("logits_processor", LogitsProcessorList([BanEvery(3)])) == ()


def test_a_configuration_gives_them_to_every_worker() -> None:
    config = ClusterConfig.from_dict(
        {"target": {"worker": {"model": {"model": "demo"}}}, "draft": {"worker": {"model": {"model": "demo-draft"}}},
         "processors": PATHS}
    )  # fmt: skip
    assert config.draft is not None
    assert config.worker_config(config.target).processors == config.worker_config(config.draft).processors == PATHS


@pytest.mark.parametrize("path", ["tests.operator_processors", "os:path.join()", "a b:c", ":c", "../x:y"])
def test_paths_are_checked_when_the_configuration_is_read(path: str) -> None:
    with pytest.raises(ConfigError, match="processors"):
        ClusterConfig.from_dict({"target": {"worker": {"model": {"model": "demo"}}}, "processors": {"mine": path}})


def test_a_worker_that_cannot_import_them_does_not_start() -> None:
    worker = WorkerConfig(model=ModelConfig(model="demo"), processors={"mine": "no_such_module_here:Class"})
    info = WorkerInfo(worker_id="t", role="target", pool="demo", model="demo")
    with pytest.raises(ConfigError, match="processors: mine is 'no_such_module_here:Class'"):
        load_engine(info, worker)
