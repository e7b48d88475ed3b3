"""The Serve application, for ``serve run``, ``serve deploy`` and a RayService's ``serveConfigV2``."""

from typing import Any

from ray import serve

from cluster.config import ClusterConfig
from serve_app.ingress import ingress_deployment
from serve_app.pools import pool_deployment


def build_app(args: dict[str, Any]) -> serve.Application:
    """Build the application ``serve_app.app:build_app``.

    Args:
        args: a ClusterConfig as plain data; empty is the embedded demo pair. Raises ConfigError naming the field.
    """
    config = ClusterConfig.from_dict(args)
    pools = [pool_deployment(pool, config) for pool in config.pools]
    return ingress_deployment(args).bind(*pools)
