"""The web application: routes, strict bodies, one shape of errors, OpenAPI at ``/docs``. Free of Ray."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.openapi import OpenAPIConfig

from cluster import __version__
from cluster.config import LimitsConfig
from serve_app.body import StrictRequest, asked_timeout
from serve_app.door import Door
from serve_app.errors import ErrorBody, handle_exception, too_large
from serve_app.gateway import Gateway
from serve_app.keys import Keys
from serve_app.openapi import ApiDescription
from serve_app.routes.docs import DocsPage
from serve_app.routes.generation import chat_completions, completions, generate
from serve_app.routes.playground import asset, page
from serve_app.routes.state import health, metrics, model, models, ready, status
from serve_app.routes.tokenization import detokenize, tokenize

HANDLERS = [
    completions, chat_completions, generate, tokenize, detokenize,
    models, model, health, ready, status, metrics, page, asset,
]  # fmt: skip


def build_web_app(
    connect: Callable[[], Awaitable[Gateway]], limits: LimitsConfig, keys: Keys | None = None
) -> Litestar:
    """Assemble the application. It connects its gateway when it starts up, and closes it when it shuts down.

    Without ``keys`` everyone may come in.
    """

    def on_error(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
        if isinstance(error, RequestEntityTooLarge):
            error = too_large(limits.max_body_bytes)
        response = handle_exception(request, error)
        shared_gateway(request.app.state).metrics.count_error(response.status_code or 500)
        return response

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        app.state.gateway = await connect()
        yield
        await shared_gateway(app.state).close()

    app = Litestar(
        route_handlers=HANDLERS,
        dependencies={"gateway": Provide(provide_gateway, sync_to_thread=False)},
        request_class=StrictRequest,
        request_max_body_size=limits.max_body_bytes,
        exception_handlers={Exception: on_error},
        lifespan=[lifespan],
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="Slipstream",
            version=__version__,
            description="Generation with speculative decoding on a Ray cluster.",
            path="/docs",
            render_plugins=[DocsPage(path="/"), ApiDescription()],
        ),
    )
    app.asgi_handler = Door(app.asgi_handler, keys, limits, lambda: shared_gateway(app.state))
    return app


def shared_gateway(state: State) -> Gateway:
    """The gateway that the application connected."""
    gateway: Gateway = state.gateway
    return gateway


def provide_gateway(state: State, request: Request[Any, Any, Any]) -> Gateway:
    """The gateway for one request, with the time that its client gives it. Raises ApiError 400."""
    seconds = asked_timeout(request)
    gateway = shared_gateway(state)
    return gateway if seconds is None else gateway.with_timeout(seconds)
