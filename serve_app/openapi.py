"""The OpenAPI document: routes as Litestar knows them, types by msgspec, fields in the words of their docstrings."""

import inspect
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin

from actors.status import ClusterStats
from serve_app.chat import ChatCompletionRequest
from serve_app.chat_answers import ChatCompletion, ChatCompletionChunk
from serve_app.completions import CompletionRequest, CompletionResponse
from serve_app.errors import ErrorBody
from serve_app.generations import GeneratedSequence, GenerateRequest, GenerateResponse, PackedAnswer
from serve_app.routes.state import Health, ModelInfo, ModelList
from serve_app.tokenization import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse

Document = dict[str, Any]

TYPES: tuple[type[msgspec.Struct], ...] = (
    CompletionRequest, CompletionResponse, ChatCompletionRequest, ChatCompletion, ChatCompletionChunk,
    GenerateRequest, GenerateResponse, GeneratedSequence, PackedAnswer,
    TokenizeRequest, TokenizeResponse, DetokenizeRequest, DetokenizeResponse,
    ModelInfo, ModelList, Health, ClusterStats, ErrorBody,
)  # fmt: skip
EVENTS = {
    "/v1/completions": CompletionResponse,
    "/v1/chat/completions": ChatCompletionChunk,
    "/generate": GeneratedSequence,
}

TENSORS: Document = {
    "application/msgpack": {"schema": {"$ref": "#/components/schemas/PackedAnswer"}},
    "application/x-safetensors": {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "The tensors of a PackedAnswer, and its answer as JSON in the metadata, under answer.",
        }
    },
}


class ApiDescription(JsonRenderPlugin):
    """The document at ``/docs/openapi.json``."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """See :class:`litestar.openapi.plugins.OpenAPIRenderPlugin`."""
        return msgspec.json.encode(complete(openapi_schema))


def complete(document: Document) -> Document:
    """Litestar's document with msgspec's types in it, and with what the routes stream."""
    components = document.get("components", {})
    paths = {path: dict(item) for path, item in document["paths"].items()}
    for path, event in EVENTS.items():
        answer = paths[path]["post"]["responses"]["200"]
        words = f"Events whose data is a {event.__name__} each, then one whose data is [DONE]."
        stream = {"text/event-stream": {"schema": {"type": "string", "description": words}}}
        post = paths[path]["post"]
        tensors = TENSORS if path == "/generate" else {}
        responses = post["responses"] | {"200": answer | {"content": answer["content"] | stream | tensors}}
        paths[path]["post"] = post | {"responses": responses}
    schemas = {**components.get("schemas", {}), **type_schemas()}
    return document | {"paths": paths, "components": {**components, "schemas": schemas}}


@cache
def type_schemas() -> Mapping[str, Document]:
    """JSON Schemas of all types in requests and answers, by name."""
    _, schemas = msgspec.json.schema_components(TYPES, ref_template="#/components/schemas/{name}")
    for root in _reachable():
        schema = schemas.get(root.__name__)
        if schema is None:
            continue
        schema["description"] = _summary(root)
        words = attribute_words(root)
        for name, field in schema.get("properties", {}).items():
            if name in words:
                schema["properties"][name] = field | {"description": words[name]}
    return schemas


def attribute_words(root: type[Any]) -> dict[str, str]:
    """What docstrings of a type and its bases say of its fields, by name."""
    words: dict[str, str] = {}
    for base in reversed(root.__mro__):
        section = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("\nAttributes:\n")[2]
        for entry in re.split(r"\n {4}(?! )", "\n" + section)[1:]:
            names, _, text = entry.partition(":")
            words |= dict.fromkeys(names.split(", "), _plain(text))
    return words


def _summary(root: type[Any]) -> str:
    return _plain(inspect.cleandoc(root.__doc__ or "").partition("\nAttributes:\n")[0])


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _reachable() -> set[type[Any]]:
    """The types above and all that their fields are made of."""
    found: set[type[Any]] = set()
    todo: list[Any] = list(msgspec.inspect.multi_type_info(TYPES))
    while todo:
        info = todo.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in found:
                continue
            found.add(info.cls)
            todo += [field.type for field in info.fields]
        for name in ("type", "item_type", "key_type", "value_type"):
            todo += [inner] if isinstance(inner := getattr(info, name, None), msgspec.inspect.Type) else []
        for name in ("types", "item_types"):
            todo += getattr(info, name, ())
    return found
