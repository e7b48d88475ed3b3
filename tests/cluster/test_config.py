"""The pools of a cluster, and their names."""

import msgspec
import pytest

from actors.config import WorkerConfig
from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError
from cluster.config import ClusterConfig, Pool, PoolConfig

TINY = PoolConfig(worker=WorkerConfig(model=ModelConfig(model="/models/tiny"), resources={"shelf": 1.0}))


def with_drafts(**drafts: PoolConfig) -> ClusterConfig:
    return msgspec.structs.replace(ClusterConfig.demo(), drafts=drafts)


def test_draft_pools_go_by_their_names_and_the_default_one_by_its_models() -> None:
    config = with_drafts(tiny=TINY)
    assert config.draft is not None
    target, default, tiny = config.pools
    assert target == Pool("target", "", config.target)
    assert [(pool.role, pool.draft_pool) for pool in (default, tiny)] == [("draft", ""), ("draft", "tiny")]
    assert tiny.config.worker == msgspec.structs.replace(TINY.worker, assists=config.target.worker.model)
    assert list(config.models) == ["demo", "demo-draft", "tiny"]
    assert {name: model.model for name, model in config.draft_models.items()} == {
        "demo-draft": "demo-draft",
        "tiny": "/models/tiny",
    }
    assert config.custom_resources == {"shelf": 1.0}
    assert ClusterConfig.from_dict(msgspec.to_builtins(config)) == config


@pytest.mark.parametrize("name", ["none", "demo", "demo-draft"])
def test_names_are_unique(name: str) -> None:
    data = msgspec.to_builtins(with_drafts()) | {"drafts": {name: msgspec.to_builtins(TINY)}}
    with pytest.raises(ConfigError, match=f"drafts: '{name}' is the name of"):
        ClusterConfig.from_dict(data)


def test_names_are_plain() -> None:
    with pytest.raises(ConfigError, match="regex"):
        ClusterConfig.from_dict(msgspec.to_builtins(with_drafts()) | {"drafts": {"a/b": msgspec.to_builtins(TINY)}})
