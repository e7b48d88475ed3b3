"""What an answer must look like, in every spelling that clients have for it."""

import json
from typing import Any

import msgspec
import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from actors.engine.errors import RequestError
from actors.engine.grammar import (
    ChoiceGrammar,
    Grammar,
    JsonObjectGrammar,
    JsonSchemaGrammar,
    LarkGrammar,
    RegexGrammar,
)
from serve_app.response_format import check_form
from serve_app.sampling_fields import SamplingFields
from tests.serve_app.fakes import FakeClient

pytestmark = pytest.mark.anyio
Http = AsyncTestClient[Litestar]

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"enum": ["x"]}}, "required": ["b"]}
BAD = {"type": "object", "not": {}}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
}


def named(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def grammar_of(body: dict[str, Any]) -> Any:
    return msgspec.convert(body, SamplingFields).sampling_overrides({}, 10).get("grammar")


SPELLINGS: list[tuple[dict[str, Any], Grammar | None]] = [
    ({}, None),
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, JsonObjectGrammar()),
    ({"response_format": named(SCHEMA)}, JsonSchemaGrammar(schema=SCHEMA)),
    ({"structured_outputs": {"json": SCHEMA}}, JsonSchemaGrammar(schema=SCHEMA)),
    ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, JsonSchemaGrammar(schema=SCHEMA)),
    (
        {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " ?"}},
        JsonSchemaGrammar(schema=SCHEMA, whitespace_pattern=" ?"),
    ),
    (
        {"structured_outputs": {"json_object": True, "disable_any_whitespace": True}},
        JsonObjectGrammar(whitespace_pattern=""),
    ),
    ({"structured_outputs": {"regex": "a+"}}, RegexGrammar(pattern="a+")),
    ({"structured_outputs": {"choice": ["a", "b"]}}, ChoiceGrammar(choices=("a", "b"))),
    ({"structured_outputs": {"grammar": 'start: "a"'}}, LarkGrammar(text='start: "a"')),
    ({"guided_json": SCHEMA}, JsonSchemaGrammar(schema=SCHEMA)),
    (
        {"guided_json": json.dumps(SCHEMA), "guided_whitespace_pattern": ""},
        JsonSchemaGrammar(schema=SCHEMA, whitespace_pattern=""),
    ),
    ({"guided_regex": "a+"}, RegexGrammar(pattern="a+")),
    ({"guided_choice": ["a", "b"]}, ChoiceGrammar(choices=("a", "b"))),
    ({"guided_grammar": 'root ::= "a"'}, LarkGrammar(text='root ::= "a"')),
]


@pytest.mark.parametrize(("body", "grammar"), SPELLINGS, ids=lambda value: str(value)[:60])
def test_every_spelling_becomes_a_grammar(body: dict[str, Any], grammar: Grammar | None) -> None:
    assert grammar_of(body) == grammar


def test_properties_keep_the_order_they_came_in() -> None:
    assert list(grammar_of({"guided_json": json.dumps(SCHEMA)}).schema["properties"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"guided_json": SCHEMA, "guided_regex": "a"}, "structured_outputs"),
        ({"response_format": named(SCHEMA), "guided_regex": "a"}, "response_format"),
        ({"guided_json": "[1]"}, "structured_outputs"),
        ({"guided_json": "{" * 100_000}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a" * 200_000}}, "structured_outputs"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_contradictions_and_excess_are_refused(body: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        grammar_of(body)
    assert caught.value.field == field


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"response_format": named(BAD)}, "response_format"),
        ({"structured_outputs": {"json": BAD}}, "structured_outputs"),
        ({"guided_json": BAD}, "guided_json"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"response_format": named({"$ref": "http://127.0.0.1/schema"})}, "response_format"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_cannot_be_kept_to_is_a_bad_request(
    http: Http, fake: FakeClient, route: str, form: dict[str, Any], field: str
) -> None:
    answer = await http.post(route, json=ROUTES[route] | form)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
    assert not fake.requests


async def test_generate_takes_a_grammar_as_it_is(http: Http, fake: FakeClient) -> None:
    grammar = {"kind": "json_schema", "schema": SCHEMA}
    assert (await http.post("/generate", json={"prompt": "a", "grammar": grammar})).status_code == 200
    assert fake.requests[0].params.grammar == JsonSchemaGrammar(schema=SCHEMA)
    answer = await http.post("/generate", json={"prompt": "a", "grammar": {"kind": "json_schema", "schema": BAD}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "grammar")


async def test_no_form_needs_no_check() -> None:
    await check_form(None, "response_format")
