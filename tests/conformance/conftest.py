"""The embedded pair in float32 behind the real door, for clients that others wrote. One for all tests here."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from actors.config import RouterConfig, WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from cluster.config import ClusterConfig, PoolConfig
from cluster.model import ClusterModel
from tests.conformance.generate_matrix import Pair, both
from tests.operator_processors import PATHS
from tests.serve_app.conftest import Server


def make_config() -> ClusterConfig:
    """Both models as they were trained, unquantized, so that log-likelihoods can be held against transformers'."""
    engine = EngineConfig(num_blocks=1024, max_num_seqs=32)
    pools = [
        PoolConfig(worker=WorkerConfig(model=ModelConfig(model=name, dtype="float32"), engine=engine, num_cpus=0.5))
        for name in ("demo", "demo-draft")
    ]
    return ClusterConfig(
        name="demo",
        target=pools[0],
        draft=pools[1],
        router=RouterConfig(num_assistant_tokens=3),
        processors=PATHS,
    )


class ClusterServer(Server):
    """Uvicorn on a thread with the door to a cluster that runs."""

    def __init__(self, config: ClusterConfig) -> None:
        from serve_app.connect import connect_gateway
        from serve_app.web import build_web_app

        app: Any = build_web_app(lambda: connect_gateway(config), config.limits)
        uvicorn.Server.__init__(
            self,
            uvicorn.Config(
                app, host="127.0.0.1", port=0, log_level="error", lifespan="on", timeout_graceful_shutdown=1
            ),
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="package")
def served(local_ray: None) -> Iterator[ClusterServer]:
    """The cluster, and the server in front of it."""
    from cluster.session import Cluster

    config = make_config()
    server = ClusterServer(config)
    with Cluster.start(config), server.running():
        yield server


@pytest.fixture(scope="package")
def demo(served: ClusterServer) -> Iterator[ClusterModel]:
    """The same cluster from Python."""
    with ClusterModel.connect() as model:
        yield model


@pytest.fixture(scope="module")
def decoder() -> Iterator[Pair]:
    """A tiny Llama in float32."""
    with both("llama", "fp32") as found:
        yield found


@pytest.fixture(scope="module")
def encoder_decoder() -> Iterator[Pair]:
    """A tiny T5 in float32."""
    with both("t5", "fp32") as found:
        yield found


@pytest.fixture
def anyio_backend() -> str:
    """One kind of event loop will do."""
    return asyncio.__name__
