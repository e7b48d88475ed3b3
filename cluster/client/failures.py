"""What a server refuses or fails at, as the errors that it had there."""

import json
from typing import Any

from actors.engine.errors import GenerationError, OverloadedError, RequestError, SlipstreamError

TRY_AGAIN = frozenset({429, 503})


def failure(status: int, content: bytes) -> SlipstreamError:
    """The error of an answer: OverloadedError, RequestError with its field, or GenerationError."""
    detail = _detail(content)
    message = str(detail.get("message") or f"the server answered with status {status}")
    field = str(detail.get("param") or "")
    if status == 429:
        return OverloadedError(message, field=field)
    if status == 401:
        return RequestError(message, field="api_key")
    if 400 <= status < 500 and status not in (408, 499):
        return RequestError(message, field=field)
    return GenerationError(message)


def stream_failure(detail: Any) -> SlipstreamError:
    """The error of an event within a stream."""
    found = detail if isinstance(detail, dict) else {}
    status = 400 if found.get("type") == "invalid_request_error" else 500
    return failure(status, json.dumps({"error": found}).encode())


def retry_after(value: str | None, attempt: int) -> float:
    """Seconds to wait: what the server says, or else longer each time."""
    try:
        return max(0.0, float(value or ""))
    except ValueError:
        return float(min(2**attempt, 30))


def _detail(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
