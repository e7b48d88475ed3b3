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
from serve_app.body import StrictRequest
from serve_app.errors import ErrorBody, handle_exception, too_large
from serve_app.gateway import Gateway
from serve_app.routes.docs import DocsPage
from serve_app.routes.generation import completions, generate
from serve_app.routes.playground import asset, page
from serve_app.routes.state import health, metrics, models, ready, status

HANDLERS = [completions, generate, models, health, ready, status, metrics, page, asset]


def build_web_app(connect: Callable[[], Awaitable[Gateway]], limits: LimitsConfig) -> Litestar:
    """Assemble the application. It connects its gateway when it starts up, and closes it when it shuts down."""

    def on_error(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
        if isinstance(error, RequestEntityTooLarge):
            error = too_large(limits.max_body_bytes)
        response = handle_exception(request, error)
        provide_gateway(request.app.state).metrics.count_error(response.status_code or 500)
        return response

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        app.state.gateway = await connect()
        yield
        await provide_gateway(app.state).close()

    return Litestar(
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
            render_plugins=[DocsPage(path="/")],
        ),
    )


def provide_gateway(state: State) -> Gateway:
    """The gateway that the application connected."""
    gateway: Gateway = state.gateway
    return gateway
