"""OpenAI's batch format: a line of the input, a line of the results."""

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from actors.engine.errors import SlipstreamError

Key = str | int
"""What a result belongs to: the ``custom_id``, or the number of a line that has none that could be read."""


class BatchError(SlipstreamError):
    """A batch job that cannot begin or go on."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One request. ``body`` is what would be posted to ``url``."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: Literal["/v1/completions", "/v1/chat/completions"]
    body: msgspec.Raw


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """What the route would have answered, refusals included."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a line was never run. ``line`` counts from 1."""

    code: str
    message: str
    line: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One result: either a response or an error. ``custom_id`` is null where the line's could not be read."""

    id: str
    custom_id: str | None
    response: Response | None = None
    error: Failure | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What is read back of a result: whose it is, and whether it failed."""

    class Status(msgspec.Struct, frozen=True):
        """The part of a response that counts."""

        status_code: int

    class Place(msgspec.Struct, frozen=True):
        """The part of an error that counts."""

        line: int

    custom_id: str | None
    response: Status | None
    error: Place | None

    @property
    def key(self) -> Key:
        """Whose result this is. Raises ValueError where that cannot be told."""
        if self.custom_id is not None:
            return self.custom_id
        if self.error is None:
            raise ValueError("a result with neither custom_id nor error")
        return self.error.line

    @property
    def is_failed(self) -> bool:
        """Whether there is no answer to the request in it."""
        return self.response is None or self.response.status_code != 200


def parse_line(raw: bytes) -> Line:
    """Decode one line. Raises BatchError with the reason, the field in it."""
    try:
        line = msgspec.json.decode(raw, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BatchError(str(error)) from None
    if not bytes(line.body).startswith(b"{"):
        raise BatchError("Expected `object` - at `$.body`")
    return line


def salvage_id(raw: bytes) -> str | None:
    """The ``custom_id`` of a line that is wrong elsewhere, None where that cannot be read either."""
    try:
        found: Any = msgspec.json.decode(raw, type=dict[str, Any]).get("custom_id")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, str) and found else None


def error_record(key: Key, number: int, message: str) -> bytes:
    """The encoded result of a line that cannot be run."""
    failure = Failure(code="invalid_line", message=f"line {number}: {message}", line=number)
    custom_id = key if isinstance(key, str) else None
    return msgspec.json.encode(Record(id=_record_id(key), custom_id=custom_id, error=failure))


def answer_record(custom_id: str, request_id: str, status_code: int, body: bytes) -> bytes:
    """The encoded result of a line that was run."""
    response = Response(status_code=status_code, request_id=request_id, body=msgspec.Raw(body))
    return msgspec.json.encode(Record(id=_record_id(custom_id), custom_id=custom_id, response=response))


def request_seed(seed: int, custom_id: str) -> int:
    """The seed of a request that brings none: a function of the job's seed and the id alone, below 2^63."""
    digest = hashlib.blake2b(custom_id.encode(), digest_size=8, key=seed.to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big") >> 1


def _record_id(key: Key) -> str:
    return "batch_req_" + hashlib.blake2b(str(key).encode(), digest_size=12).hexdigest()
