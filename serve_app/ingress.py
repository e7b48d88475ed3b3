"""The ingress deployment: the web application in a Serve replica, connected to the router."""

from collections.abc import Callable, Mapping
from typing import Any

from typing import TYPE_CHECKING
from ray import serve

from actors.router_client import RouterClient
from actors.start import start_router
from cluster.config import ClusterConfig
from cluster.defaults import generation_defaults
from serve_app.gateway import Gateway
from serve_app.served_model import read_tokenizer
from serve_app.web import build_web_app

MAX_ONGOING_REQUESTS = 10_000  # the router decides what is too much; Serve must not queue before it


def make_builder(args: Mapping[str, Any]) -> Callable[[], Litestar]:
    """A function that builds the application inside a replica; only it and its plain ``args`` are pickled."""

    def build() -> Litestar:
        config = ClusterConfig.from_dict(args)

        async def connect() -> Gateway:
            return await connect_gateway(config)

        return build_web_app(connect, config.limits)

    return build


async def connect_gateway(config: ClusterConfig) -> Gateway:
    """Start the router, or find the one that runs, and connect to it. Raises ConfigError, ModelNotFoundError."""
    model = config.target.worker.model
    start_router(config.router, detached=True)
    return Gateway(
        await RouterClient.connect(),
        read_tokenizer(model),
        name=config.name,
        limits=config.limits,
        defaults=generation_defaults(model),
    )


def ingress_deployment(args: Mapping[str, Any]) -> serve.Deployment:
    """The ingress, to be bound to the pools so that they are deployed with it."""
    return serve.deployment(
        serve.ingress(make_builder(args))(),
        name="Ingress",
        num_replicas=1,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": 0},
    )
