"""Errors as OpenAI's clients expect them: one JSON shape, the offending field and its limit in words."""

import logging
import re
from typing import Any

import msgspec
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, ValidationException

from actors.engine.errors import GenerationError, OverloadedError, RequestError, SlipstreamError
from serve_app.not_served import NOT_SERVED

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 1
_PATH = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_CODES = {404: "not_found", 405: "method_not_allowed"}


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong. ``param`` names the offending field."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's envelope of an error."""

    error: ErrorDetail


class ApiError(SlipstreamError):
    """An error with its HTTP status. Semantic limits are 400, wrong types and unknown fields 422."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    @property
    def body(self) -> ErrorBody:
        """The JSON that the client sees."""
        return ErrorBody(
            error=ErrorDetail(message=str(self), type=_type(self.status), param=self.param, code=self.code)
        )


def unauthorized(is_given: bool) -> ApiError:
    """No API key, or one that is not known here."""
    words = "this API key is not known here" if is_given else "an API key is needed: send 'Authorization: Bearer KEY'"
    return ApiError(401, words, code="invalid_api_key" if is_given else "missing_api_key")


def bad_timeout(name: str, value: str) -> ApiError:
    """A header that should give a number of seconds."""
    return ApiError(
        400,
        f"{name}: a number of seconds above 0 is needed, but it is {value[:32]!r}",
        param=name,
        code="out_of_range",
    )


def body_too_slow(seconds: float) -> ApiError:
    """A body that does not end."""
    return ApiError(408, f"body: it did not come within the limit of {seconds:g} seconds", param="body", code="timeout")


def not_ready() -> ApiError:
    """No target serves at the moment."""
    return ApiError(503, "no target is ready to serve yet; try again in a moment", code="not_ready")


def too_large(max_body_bytes: int) -> ApiError:
    """A body over the limit."""
    return ApiError(413, f"body: over the limit of {max_body_bytes} bytes", param="body", code="body_too_large")


def not_acceptable(field: str) -> ApiError:
    """Tensors that JSON does not carry."""
    return ApiError(
        406,
        f"{field}: JSON carries no tensors; send 'Accept: application/x-safetensors' or 'Accept: application/msgpack'",
        param=field,
        code="not_acceptable",
    )


def timed_out(seconds: float) -> ApiError:
    """A request ran past its limit."""
    return ApiError(504, f"the request took longer than the limit of {seconds:g} seconds", code="timeout")


def client_gone() -> ApiError:
    """The client hung up; nobody reads this answer, but logs and metrics do."""
    return ApiError(499, "the client closed the connection", code="client_closed_request")


def from_validation(error: Exception) -> ApiError:
    """Turn a decoding error of msgspec into an answer that names the field."""
    text = str(error)
    if isinstance(error, RecursionError):
        return ApiError(400, "body: JSON is nested too deeply", param="body", code="invalid_json")
    if not isinstance(error, msgspec.ValidationError):
        return ApiError(400, f"body: not valid JSON ({text})", param="body", code="invalid_json")
    if match := _UNKNOWN.search(text):
        words = f"not served over HTTP: {NOT_SERVED[match[1]]}" if match[1] in NOT_SERVED else "unknown field"
        return ApiError(422, f"{match[1]}: {words}", param=match[1], code="unknown_field")
    if match := _MISSING.search(text):
        return ApiError(422, f"{match[1]}: this field is required", param=match[1], code="missing_field")
    path = _PATH.search(text)
    param = path[1] if path and path[1] else "body"
    words = _PATH.sub("", text)
    words = words[0].lower() + words[1:]
    is_type = ", got " in words
    status, code = (422, "wrong_type") if is_type else (400, "out_of_range")
    return ApiError(status, f"{param}: {words}", param=param, code=code)


def from_exception(error: BaseException) -> ApiError:
    """Map any exception that can reach the door to an answer. What is nobody's input is logged and told as a 500."""
    match error:
        case ApiError():
            return error
        case OverloadedError():
            return ApiError(429, str(error), param=error.field or None, code="overloaded")
        case RequestError(field="model"):
            return ApiError(404, str(error), param="model", code="model_not_found")
        case RequestError():
            return ApiError(400, str(error), param=error.field or None, code="invalid_value")
        case NotImplementedError():
            return ApiError(400, str(error), code="not_implemented")
        case GenerationError():
            return ApiError(500, f"generation failed: {error}", code="generation_failed")
        case ValidationException():
            return ApiError(400, "body: a JSON object is needed, but it is empty", param="body", code="invalid_json")
        case HTTPException():
            return ApiError(error.status_code, error.detail, code=_CODES.get(error.status_code))
        case _:
            logger.error("unexpected error", exc_info=error)
            return ApiError(500, "internal error; the server's log has the details", code="internal_error")


def handle_exception(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    """Litestar's hook: every exception becomes the one JSON shape."""
    answer = from_exception(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    headers |= headers_of(answer)
    return Response(answer.body, status_code=answer.status, headers=headers, media_type=MediaType.JSON)


def headers_of(answer: ApiError) -> dict[str, str]:
    """The headers that go with an error: when to try again, or what to bring."""
    match answer.status:
        case 401:
            return {"WWW-Authenticate": 'Bearer realm="slipstream"'}
        case 429 | 503:
            return {"Retry-After": str(RETRY_AFTER_SECONDS)}
        case _:
            return {}


def _type(status: int) -> str:
    """OpenAI's word for a class of errors."""
    match status:
        case 404:
            return "not_found_error"
        case 429:
            return "rate_limit_error"
        case 503:
            return "service_unavailable_error"
        case _:
            return "server_error" if status >= 500 else "invalid_request_error"
