"""The web application: routes, strict bodies, one shape of errors, OpenAPI at ``/docs``. Free of Ray."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response
from litestar.di import Provide
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.openapi import OpenAPIConfig

from serve_app.body import StrictRequest
from serve_app.errors import ErrorBody, handle_exception, too_large
from serve_app.gateway import Gateway
from serve_app.routes.generation import completions, generate
from serve_app.routes.playground import asset, page
from serve_app.routes.state import health, metrics, models, ready, status

HANDLERS = [completions, generate, models, health, ready, status, metrics, page, asset]


def build_web_app(gateway: Gateway) -> Litestar:
    """Assemble the application around one gateway, which it closes when it shuts down."""

    def provide_gateway() -> Gateway:
        return gateway

    def on_error(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
        if isinstance(error, RequestEntityTooLarge):
            error = too_large(gateway.limits.max_body_bytes)
        response = handle_exception(request, error)
        gateway.metrics.count_error(response.status_code or 500)
        return response

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        yield
        await gateway.close()

    return Litestar(
        route_handlers=HANDLERS,
        dependencies={"gateway": Provide(provide_gateway, sync_to_thread=False, use_cache=True)},
        request_class=StrictRequest,
        request_max_body_size=gateway.limits.max_body_bytes,
        exception_handlers={Exception: on_error},
        lifespan=[lifespan],
        logging_config=None,
        openapi_config=OpenAPIConfig(title="Slipstream", version="0.1.0", path="/docs"),
    )
