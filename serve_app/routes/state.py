"""Routes that tell about the cluster."""

from typing import Any, Literal

import msgspec
from litestar import MediaType, Response, get
from prometheus_client import CONTENT_TYPE_LATEST

from actors.status import ClusterStats
from serve_app.cluster_view import FRESH_SECONDS, ModelCard
from serve_app.errors import ApiError
from serve_app.gateway import Gateway


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A served model, in OpenAI's words. ``created`` is when this server learnt of it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "slipstream"
    max_model_len: int


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's list of models."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """One word."""

    status: Literal["ok", "ready"]


@get("/v1/models", tags=["state"], summary="The target, and the drafts by name; none while not ready")
async def models(gateway: Gateway) -> ModelList:
    """List what can be asked for now."""
    return ModelList(data=[_info(gateway, card) for card in await gateway.cards()])


@get("/v1/models/{name:path}", tags=["state"], summary="One model by its name; 404 unless it is served")
async def model(name: str, gateway: Gateway) -> ModelInfo:
    """Names may hold slashes, as hub ids do."""
    return _info(gateway, await gateway.of(name.removeprefix("/")).card())


def _info(gateway: Gateway, card: ModelCard) -> ModelInfo:
    return ModelInfo(id=card.name, created=gateway.created, max_model_len=card.max_model_len)


@get("/health", tags=["state"], summary="The process lives")
async def health() -> Health:
    """Never asks the cluster."""
    return Health(status="ok")


@get("/ready", tags=["state"], summary="At least one target serves; 503 otherwise")
async def ready(gateway: Gateway) -> Health:
    """Ask the router."""
    await gateway.card(max_age=FRESH_SECONDS)
    return Health(status="ready")


@get("/status", tags=["state"], summary="Workers, load and draft counters")
async def status(gateway: Gateway) -> ClusterStats:
    """The router's own account."""
    return await gateway.stats()


@get("/metrics", tags=["state"], summary="Prometheus metrics", media_type=MediaType.TEXT)
async def metrics(gateway: Gateway) -> Response[Any]:
    """Scrape; the door's own metrics come also when no router answers."""
    try:
        stats = await gateway.stats()
    except ApiError:
        stats = None
    return Response(gateway.metrics.render(stats), headers={"Content-Type": CONTENT_TYPE_LATEST})
