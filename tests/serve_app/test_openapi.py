"""The OpenAPI document: whole, true to the types, and in words."""

import re
from typing import Any

import jsonschema
import msgspec
import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from serve_app.openapi import TYPES, attribute_words
from tests.serve_app.fakes import FakeClient

pytestmark = pytest.mark.anyio
Http = AsyncTestClient[Litestar]


async def document(http: Http) -> dict[str, Any]:
    """What the server says of itself."""
    response = await http.get("/docs/openapi.json")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


async def test_every_reference_leads_somewhere(http: Http) -> None:
    found = await document(http)
    references = set(re.findall(r'"\$ref":"#/components/schemas/(\w+)"', msgspec.json.encode(found).decode()))
    assert references
    assert references <= set(found["components"]["schemas"])
    for path in ("/v1/models", "/v1/completions", "/v1/chat/completions", "/generate", "/tokenize", "/detokenize"):
        assert path in found["paths"]


async def test_fields_are_described_and_bounded(http: Http) -> None:
    schemas = (await document(http))["components"]["schemas"]
    fields = schemas["ChatCompletionRequest"]["properties"]
    assert "greedy" in fields["temperature"]["description"]
    assert fields["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0.0}
    assert "conversation" in fields["messages"]["description"]
    assert schemas["ChatCompletionRequest"]["additionalProperties"] is False
    assert "Attributes" not in schemas["ChatCompletionRequest"]["description"]
    assert "eos_token_id" in schemas["GenerateRequest"]["properties"]


def test_what_docstrings_name_exists() -> None:
    for root in TYPES:
        assert set(attribute_words(root)) <= set(root.__struct_fields__), root


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "Once", "echo": True, "logprobs": 1, "return_token_ids": True}),
        ("/v1/completions", {"prompt": "Once", "prompt_logprobs": 1, "n": 2}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "logprobs": True, "top_logprobs": 1}),
        ("/generate", {"prompt": "Once", "logprobs": 1}),
        ("/tokenize", {"prompt": "Once"}),
        ("/detokenize", {"tokens": [5]}),
        ("/v1/models", None),
        ("/v1/models/toy", None),
    ],
)  # fmt: skip
async def test_requests_and_answers_are_as_described(http: Http, path: str, body: dict[str, Any] | None) -> None:
    found = await document(http)
    response = await (http.get(path) if body is None else http.post(path, json=body))
    assert response.status_code == 200, response.text
    described = path.replace("/toy", "/{name}")
    operation = found["paths"][described]["get" if body is None else "post"]
    _check(response.json(), operation["responses"]["200"]["content"]["application/json"]["schema"], found)
    if body is not None:
        _check(body, operation["requestBody"]["content"]["application/json"]["schema"], found)


async def test_an_error_is_as_described(http: Http, fake: FakeClient) -> None:
    found = await document(http)
    response = await http.post("/v1/completions", json={"prompt": ""})
    operation = found["paths"]["/v1/completions"]["post"]
    _check(response.json(), operation["responses"]["400"]["content"]["application/json"]["schema"], found)
    assert "text/event-stream" in operation["responses"]["200"]["content"]


def _check(value: Any, schema: dict[str, Any], found: dict[str, Any]) -> None:
    """Raises where a value is not what a schema of the document says."""
    jsonschema.Draft202012Validator({**schema, "components": found["components"]}).validate(value)
