"""The page at ``/docs``: OpenAPI made readable by a script of this package, since nothing is loaded from elsewhere."""

from typing import Any

from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

from serve_app.routes.playground import FILES


class DocsPage(OpenAPIRenderPlugin):
    """A static page; it fetches ``/docs/openapi.json``."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """See :class:`litestar.openapi.plugins.OpenAPIRenderPlugin`."""
        return FILES["docs.html"]
