"""A replica's gateway onto the router that runs on this Ray."""

import msgspec

from actors.router_client import RouterClient
from actors.start import start_router
from cluster.config import ClusterConfig
from cluster.defaults import generation_defaults
from serve_app.cluster_view import Capacity
from serve_app.gateway import Gateway
from serve_app.served_model import load_chat_template, read_tokenizer


async def connect_gateway(config: ClusterConfig) -> Gateway:
    """Start the router, or find the one that runs, and connect to it. Raises ConfigError, ModelNotFoundError."""
    model = config.target.worker.model
    start_router(
        config.router,
        models=(config.name,),
        drafts=tuple(config.draft_models),
        description=msgspec.msgpack.encode(config),
        detached=True,
    )
    return Gateway(
        await RouterClient.connect(),
        read_tokenizer(model),
        name=config.name,
        limits=config.limits,
        defaults=generation_defaults(model),
        capacity=capacity_of(config),
        chat_template=load_chat_template(model),
    )


def capacity_of(config: ClusterConfig) -> Capacity:
    """Sequences that the router takes, and those that run or wait on one target."""
    engine = config.target.worker.engine
    return Capacity(total=config.router.max_num_requests, per_target=engine.max_num_seqs + engine.max_num_waiting)
