"""Request bodies: JSON decoded by msgspec straight into a handler's type, strictly. And the one header that counts."""

import math
from typing import Any

import msgspec
from litestar import Request

from serve_app.errors import ApiError, bad_timeout, from_validation

TIMEOUT_HEADER = "x-request-timeout"


class StrictRequest(Request[Any, Any, Any]):
    """A request whose JSON body is decoded into the type of the handler's ``data``, with no coercion ("1" is no 1)."""

    async def json(self) -> Any:
        """See :meth:`litestar.Request.json`. Raises ApiError 400, 415 or 422."""
        media_type = self.content_type[0]
        if media_type != "application/json":
            raise ApiError(
                415, f"content-type: application/json is needed, but it is {media_type or 'missing'!r}",
                param="content-type", code="unsupported_media_type",
            )  # fmt: skip
        field = self.route_handler.parsed_data_field
        return decode(await self.body(), Any if field is None else field.annotation)


def decode(body: bytes, annotation: Any) -> Any:
    """Decode one JSON document. Raises ApiError naming the field."""
    try:
        return msgspec.json.decode(body, type=annotation)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise from_validation(error) from error


def given_names(body: bytes) -> frozenset[str]:
    """Names at the top of a JSON object that was decoded already: what the caller spelt out, nulls included."""
    return frozenset(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))


def asked_timeout(request: Request[Any, Any, Any]) -> float | None:
    """Seconds that a client gives its request in ``X-Request-Timeout``. Raises ApiError 400."""
    value = request.headers.get(TIMEOUT_HEADER)
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        raise bad_timeout(TIMEOUT_HEADER, value) from None
    if not (math.isfinite(seconds) and seconds > 0):
        raise bad_timeout(TIMEOUT_HEADER, value)
    return seconds
