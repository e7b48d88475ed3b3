"""A replica's gateway onto the router that runs on this Ray."""

import msgspec

from actors.router_client import RouterClient
from actors.start import start_router
from cluster.config import ClusterConfig
from cluster.defaults import generation_defaults
from serve_app.gateway import Gateway
from serve_app.served_model import read_tokenizer


async def connect_gateway(config: ClusterConfig) -> Gateway:
    """Start the router, or find the one that runs, and connect to it. Raises ConfigError, ModelNotFoundError."""
    model = config.target.worker.model
    start_router(config.router, description=msgspec.msgpack.encode(config), detached=True)
    return Gateway(
        await RouterClient.connect(),
        read_tokenizer(model),
        name=config.name,
        limits=config.limits,
        defaults=generation_defaults(model),
    )
