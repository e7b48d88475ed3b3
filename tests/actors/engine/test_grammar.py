"""Grammars as data: what is refused before anything runs, and with which words."""

import threading
import time
from typing import Any

import msgspec
import pytest

from actors.engine.errors import RequestError
from actors.engine.grammar import (
    MAX_GRAMMAR_BYTES,
    MAX_GRAMMAR_DEPTH,
    ChoiceGrammar,
    Grammar,
    JsonObjectGrammar,
    JsonSchemaGrammar,
    LarkGrammar,
    RegexGrammar,
    check_bounds,
    decode_grammar,
)
from actors.engine.grammar_check import check_grammar
from actors.engine.params import GenerationParams
from actors.engine.validation import check_params

GOOD: list[Grammar] = [
    JsonSchemaGrammar(schema={"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {}}}),
    JsonSchemaGrammar(schema={"properties": {"$ref": {"type": "string"}}, "enum": [{"$ref": "http://no/reference"}]}),
    JsonObjectGrammar(whitespace_pattern=" ?"),
    RegexGrammar(pattern=r"\d{3}-[a-zé]+"),
    ChoiceGrammar(choices=('yes "indeed"', "no\n", "пёс 🐕")),
    LarkGrammar(text='start: "a" rest\nrest: /[0-9]/ | "(" start ")"'),
    LarkGrammar(text='root ::= "yes" | "no" [0-9]+'),
]


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


BAD: list[tuple[Grammar, str]] = [
    (JsonSchemaGrammar(schema={"type": "object", "not": {}}), "not"),
    (JsonSchemaGrammar(schema={"type": "nonsense"}), "nonsense"),
    (JsonSchemaGrammar(schema={"uniqueItems": True}), "uniqueItems"),
    (JsonSchemaGrammar(schema={"type": "integer", "minimum": 3, "maximum": 1}), "minimum"),
    (JsonSchemaGrammar(schema={"$ref": "#/nowhere"}), "nowhere"),
    (JsonSchemaGrammar(schema={"$ref": "https://example.com/schema.json"}), "nothing is fetched"),
    (JsonSchemaGrammar(schema={"items": {"$ref": "file:///etc/passwd"}}), "nothing is fetched"),
    (JsonSchemaGrammar(schema={"properties": {"const": {"$ref": "https://example.com/x"}}}), "example.com"),
    (JsonSchemaGrammar(schema=nested(MAX_GRAMMAR_DEPTH + 1)), f"more than {MAX_GRAMMAR_DEPTH} levels"),
    (JsonSchemaGrammar(schema=nested(100_000)), f"more than {MAX_GRAMMAR_DEPTH} levels"),
    (JsonSchemaGrammar(schema={"const": nested(100_000)}), f"more than {MAX_GRAMMAR_DEPTH} levels"),
    (JsonSchemaGrammar(schema={"description": "x" * MAX_GRAMMAR_BYTES}), str(MAX_GRAMMAR_BYTES)),
    (JsonSchemaGrammar(schema={"type": "string", "pattern": "(?=a)"}), "look-around"),
    (RegexGrammar(pattern="("), "unclosed group"),
    (RegexGrammar(pattern="a" * MAX_GRAMMAR_BYTES), str(MAX_GRAMMAR_BYTES)),
    (LarkGrammar(text="start: missing"), "missing"),
    (LarkGrammar(text='root ::= "a" | ('), "GBNF"),
]


@pytest.mark.parametrize("grammar", GOOD, ids=lambda g: type(g).__name__)
def test_grammars_pass_and_keep_their_form_on_the_way(grammar: Grammar) -> None:
    check_grammar(grammar)
    params = GenerationParams(grammar=grammar)
    check_params(params, vocab_size=10)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=GenerationParams) == params
    assert decode_grammar(check_bounds(grammar)) == grammar


@pytest.mark.parametrize(("grammar", "words"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_kept_to_is_refused_by_name(grammar: Grammar, words: str) -> None:
    with pytest.raises(RequestError, match="response_format: ") as caught:
        check_grammar(grammar, "response_format")
    assert words in str(caught.value)
    assert caught.value.field == "response_format"
    assert caught.value.limit
    assert "\n" not in str(caught.value)


def test_properties_keep_their_order() -> None:
    first = JsonSchemaGrammar(schema={"properties": {"b": {}, "a": {}}})
    second = JsonSchemaGrammar(schema={"properties": {"a": {}, "b": {}}})
    assert check_bounds(first) != check_bounds(second)


@pytest.mark.parametrize("name", ["forced_eos_token_id", "forced_bos_token_id"])
def test_forced_tokens_are_refused_beside_a_grammar(name: str) -> None:
    fields: dict[str, Any] = {name: 1 if name.startswith("forced_bos") else (1,)}
    params = GenerationParams(grammar=JsonObjectGrammar(), **fields)
    with pytest.raises(RequestError, match="the grammar may forbid") as caught:
        check_params(params, vocab_size=10)
    assert caught.value.field == name


def explosion(width: int) -> dict[str, Any]:
    """Every combination of ``width`` choices of four."""
    choices = [
        [
            {"type": "object", "properties": {f"p{i}_{j}": {"type": "integer"}}, "required": [f"p{i}_{j}"]}
            for j in range(4)
        ]
        for i in range(width)
    ]
    return {"allOf": [{"anyOf": choice} for choice in choices]}


def test_a_schema_that_explodes_is_refused_for_its_work_while_others_go_on() -> None:
    """The limit is on work and not on time; other threads run meanwhile, since the interpreter's lock is free."""
    caught: list[RequestError] = []

    def check() -> None:
        try:
            check_grammar(JsonSchemaGrammar(schema=explosion(30)))
        except RequestError as error:
            caught.append(error)

    thread = threading.Thread(target=check)
    thread.start()
    num_turns = 0
    while thread.is_alive():
        num_turns += 1
        time.sleep(0.0001)
    assert caught and caught[0].field == "grammar"
    assert num_turns > 3
