"""The ingress deployment: the web application in a Serve replica, connected to the router."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ray import serve

from actors.start import HEAD_RESOURCE
from serve_app.keys import are_demanded

if TYPE_CHECKING:
    from litestar import Litestar

    from serve_app.gateway import Gateway

MAX_ONGOING_REQUESTS = 10_000  # the router decides what is too much; Serve must not queue before it


def make_builder(args: Mapping[str, Any], *, needs_keys: bool = False) -> "Callable[[], Litestar]":
    """A function that builds the application inside a replica; only it and its plain ``args`` are pickled.

    What the application needs is imported there too: who deploys has no use for it. Where ``needs_keys``, a replica
    that finds no API keys does not start. Raises ConfigError then.
    """

    def build() -> "Litestar":
        from actors.engine.errors import ConfigError
        from cluster.config import ClusterConfig
        from serve_app.connect import connect_gateway
        from serve_app.keys import MANY_KEYS, ONE_KEY, load_keys
        from serve_app.web import build_web_app

        config = ClusterConfig.from_dict(args)
        keys = load_keys(config.api_keys_file)
        if needs_keys and keys is None:
            raise ConfigError(
                f"{ONE_KEY} or {MANY_KEYS} was set where this was deployed from, but is not where the ingress runs: "
                "set it on every node, or name an api_keys_file"
            )

        async def connect() -> "Gateway":
            return await connect_gateway(config)

        return build_web_app(connect, config.limits, keys)

    return build


def ingress_deployment(args: Mapping[str, Any]) -> serve.Deployment:
    """The ingress, to be bound to the pools so that they are deployed with it.

    Where the environment of who deploys demands API keys, so does the ingress, wherever it runs.
    """
    deployment: serve.Deployment = serve.deployment(
        name="Ingress",
        num_replicas=1,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        # On the head: an autoscaler would take a worker node away from under its streams.
        ray_actor_options={"num_cpus": 0, "resources": {HEAD_RESOURCE: 0.001}},
        graceful_shutdown_wait_loop_s=0.2,
    )(serve.ingress(make_builder(args, needs_keys=are_demanded(None)))())
    return deployment
