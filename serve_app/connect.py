"""A replica's gateway onto the router that runs on this Ray."""

import logging

import msgspec

from actors.engine.errors import ConfigError
from actors.router_client import RouterClient
from actors.start import start_router
from cluster.config import ClusterConfig, LimitsConfig
from cluster.defaults import generation_defaults
from cluster.generation_client import ModelClient
from serve_app.cluster_view import Capacity
from serve_app.gateway import Gateway
from serve_app.served_model import load_chat_template, read_tokenizer

logger = logging.getLogger(__name__)


async def connect_gateway(config: ClusterConfig) -> Gateway:
    """Start the router, or find the one that runs, and connect to it. Raises ConfigError, ModelNotFoundError."""
    start_router(
        config.router,
        models=(config.name,),
        drafts=tuple(config.draft_models),
        description=msgspec.msgpack.encode(config),
        detached=True,
    )
    return open_gateway(await RouterClient.connect(), config, config.limits, capacity_of(config))


def open_gateway(
    client: ModelClient, config: ClusterConfig, limits: LimitsConfig, capacity: Capacity | None = None
) -> Gateway:
    """A gateway onto a cluster's target, and onto those of its drafts that have a tokenizer. Raises ConfigError."""
    model = config.target.worker.model
    gateway = Gateway(
        client,
        read_tokenizer(model),
        name=config.name,
        limits=limits,
        defaults=generation_defaults(model),
        capacity=capacity,
        chat_template=load_chat_template(model),
    )
    for name, draft in config.draft_models.items():
        try:
            tokenizer = read_tokenizer(draft)
        except ConfigError as error:
            logger.info("the draft %r is not served over HTTP: %s", name, error)
            continue
        gateway.serve(name, tokenizer, defaults=generation_defaults(draft), chat_template=load_chat_template(draft))
    return gateway


def capacity_of(config: ClusterConfig) -> Capacity:
    """Sequences that the router takes, and those that run or wait on one target."""
    engine = config.target.worker.engine
    return Capacity(total=config.router.max_num_requests, per_target=engine.max_num_seqs + engine.max_num_waiting)
