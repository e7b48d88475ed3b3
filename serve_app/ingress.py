"""The ingress deployment: the web application in a Serve replica, connected to the router."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ray import serve

if TYPE_CHECKING:
    from litestar import Litestar

    from serve_app.gateway import Gateway

MAX_ONGOING_REQUESTS = 10_000  # the router decides what is too much; Serve must not queue before it


def make_builder(args: Mapping[str, Any]) -> "Callable[[], Litestar]":
    """A function that builds the application inside a replica; only it and its plain ``args`` are pickled.

    What the application needs is imported there too: who deploys has no use for it.
    """

    def build() -> "Litestar":
        from cluster.config import ClusterConfig
        from serve_app.connect import connect_gateway
        from serve_app.web import build_web_app

        config = ClusterConfig.from_dict(args)

        async def connect() -> "Gateway":
            return await connect_gateway(config)

        return build_web_app(connect, config.limits)

    return build


def ingress_deployment(args: Mapping[str, Any]) -> serve.Deployment:
    """The ingress, to be bound to the pools so that they are deployed with it."""
    deployment: serve.Deployment = serve.deployment(
        name="Ingress",
        num_replicas=1,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.2,
    )(serve.ingress(make_builder(args))())
    return deployment
