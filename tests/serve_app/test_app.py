"""The Serve application as it is declared, without starting it."""

import msgspec
import pytest
from ray.serve._private.build_app import build_app as build

from actors.config import WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.errors import ConfigError
from cluster.config import ClusterConfig, PoolConfig
from serve_app.app import build_app
from serve_app.run import check_port, curl_line, failure, url


def deployments(args: dict[str, object]) -> dict[str, object]:
    """Deployments by name."""
    built = build(build_app(args), name="test", default_runtime_env=None)
    return {deployment.name: deployment for deployment in built.deployments}


def test_no_args_are_the_demo() -> None:
    assert set(deployments({})) == {"Ingress", "TargetPool", "DraftPool"}


def test_a_cluster_without_drafts() -> None:
    config = ClusterConfig(target=PoolConfig(worker=WorkerConfig(model=ModelConfig(model="demo"))))
    assert set(deployments(msgspec.to_builtins(config))) == {"Ingress", "TargetPool"}


def test_replicas() -> None:
    worker = WorkerConfig(model=ModelConfig(model="demo"), engine=EngineConfig(max_num_seqs=8))
    config = ClusterConfig(
        target=PoolConfig(worker=worker, replicas=2, max_replicas=5), draft=PoolConfig(worker=worker, replicas=3)
    )
    built = deployments(msgspec.to_builtins(config))
    scaling = built["TargetPool"]._deployment_config.autoscaling_config  # type: ignore[attr-defined]
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 5)
    assert built["DraftPool"].num_replicas == 3  # type: ignore[attr-defined]


def test_bad_args_name_the_field() -> None:
    with pytest.raises(ConfigError, match="replicas"):
        build_app({"target": {"worker": {"model": {"model": "demo"}}, "replicas": 0}})
    with pytest.raises(ConfigError, match="tarket"):
        build_app({"tarket": {}})


def test_a_port_that_is_taken_is_found_before_anything_starts() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="choose another --port"):
        check_port("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://localhost:1"), ("::1", "http://[::1]:1")],
)
def test_what_is_printed_can_be_opened(host: str, address: str) -> None:
    assert url(host, 1) == address
    assert curl_line(ClusterConfig.demo(), host, 1).startswith(f"curl -N {address}/v1/completions ")


def test_the_cause_of_a_failed_start_is_found() -> None:
    details = ["Traceback:\n  File x, line 3\n    raise y\nactors.engine.errors.DoesNotFitError: cpu: too small\n"]
    assert failure("Deploying app failed", details) == "DoesNotFitError: cpu: too small"
    assert failure("Deploying app failed", [""]) == "Deploying app failed"


def test_each_pool_of_drafts_is_a_deployment() -> None:
    pool = PoolConfig(worker=WorkerConfig(model=ModelConfig(model="demo-draft")))
    config = msgspec.structs.replace(ClusterConfig.demo(), drafts={"tiny": pool, "other.one": pool})
    names = {"Ingress", "TargetPool", "DraftPool", "DraftPool-tiny", "DraftPool-other.one"}
    assert set(deployments(msgspec.to_builtins(config))) == names
