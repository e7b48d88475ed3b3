"""The application on a fake cluster: in process, and behind a real socket."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from litestar import Litestar
from litestar.testing import AsyncTestClient

from cluster.config import LimitsConfig
from tests.serve_app.fakes import FakeClient, make_app


@pytest.fixture
def anyio_backend() -> str:
    """Serve runs on asyncio."""
    return "asyncio"


@pytest.fixture
def fake() -> FakeClient:
    """The cluster behind the door; tests set it up before they call."""
    return FakeClient()


@pytest.fixture
async def http(fake: FakeClient) -> AsyncIterator[AsyncTestClient[Litestar]]:
    """A client of the application, in process."""
    limits = LimitsConfig(max_body_bytes=4096, max_n=4, max_num_prompts=3, max_logprobs=5)
    async with AsyncTestClient(make_app(fake, limits)) as client:
        yield client


class Server(uvicorn.Server):
    """Uvicorn on a thread, at a port that the system picks."""

    def __init__(self, fake: FakeClient, limits: LimitsConfig | None = None) -> None:
        app: Any = make_app(fake, limits or LimitsConfig(max_body_bytes=4096))
        super().__init__(
            uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="on", timeout_graceful_shutdown=1)
        )
        self.fake = fake

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.servers[0].sockets[0].getsockname()[1])

    @contextmanager
    def running(self) -> Iterator["Server"]:
        """Serve for as long as the context lasts."""
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        while not self.started:
            thread.join(0.01)
        yield self
        self.should_exit = True
        thread.join(5)


@pytest.fixture
def server(fake: FakeClient) -> Iterator[Server]:
    """A running server."""
    with Server(fake).running() as server:
        yield server
