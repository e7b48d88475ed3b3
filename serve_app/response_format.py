"""What an answer must look like, in OpenAI's words and in vLLM's, as a grammar of the engine.

A route reads its request's grammar with :func:`read_grammar` and awaits :func:`check_form` before it plans sequences: a
schema that cannot be kept to is refused there, beside the event loop, with the name of the field that it came in.
"""

import asyncio
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from actors.engine.errors import RequestError
from actors.engine.grammar import (
    ChoiceGrammar,
    Grammar,
    JsonObjectGrammar,
    JsonSchemaGrammar,
    LarkGrammar,
    RegexGrammar,
    check_bounds,
)
from actors.engine.grammar_check import check_grammar

Text = Annotated[str, Meta(min_length=1)]


class TextFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"
):
    """Any JSON object."""


class NamedSchema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON Schema with a name. It is always kept to the letter, whatever ``strict`` says."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class JsonSchemaFormat(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"
):
    """JSON that a schema accepts."""

    json_schema: NamedSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """vLLM's constraints, of which a request gives one.

    Attributes:
        json: a JSON Schema, also as text.
        grammar: a context-free grammar in Lark's notation or in GBNF.
        disable_any_whitespace: JSON without blanks between its tokens.
        whitespace_pattern: regular expression of what may stand there.
    """

    json: dict[str, Any] | str | None = None
    json_object: bool | None = None
    regex: Text | None = None
    choice: Annotated[list[Text], Meta(min_length=1)] | None = None
    grammar: Text | None = None
    disable_any_whitespace: bool = False
    whitespace_pattern: str | None = None

    @property
    def whitespace(self) -> str | None:
        """What may stand between JSON tokens; None for the default."""
        return "" if self.disable_any_whitespace else self.whitespace_pattern


async def check_form(grammar: Grammar | None, field: str) -> None:
    """Raises RequestError, naming ``field``, where a grammar cannot be kept to. Long ones take half a second."""
    if grammar is not None:
        await asyncio.to_thread(check_grammar, grammar, field)


def read_grammar(response_format: ResponseFormat | None, structured: StructuredOutputs | None) -> Grammar | None:
    """The grammar that a request asks for, None where any text will do. Raises RequestError naming the field."""
    grammar = _of_format(response_format)
    field = "response_format"
    if structured is not None:
        if grammar is not None:
            raise RequestError("structured_outputs: give either it or response_format, one of them", field=field)
        field = "structured_outputs"
        grammar = _of_structured(structured)
    if grammar is not None:
        check_bounds(grammar, field)
    return grammar


def _of_format(response_format: ResponseFormat | None) -> Grammar | None:
    match response_format:
        case JsonSchemaFormat(json_schema=NamedSchema(schema=dict() as schema)):
            return JsonSchemaGrammar(schema=schema)
        case JsonObjectFormat() | JsonSchemaFormat():
            return JsonObjectGrammar()
        case _:
            return None


def _of_structured(given: StructuredOutputs) -> Grammar:
    kinds: dict[str, Grammar] = {}
    if given.json is not None:
        kinds["json"] = JsonSchemaGrammar(schema=_schema(given.json), whitespace_pattern=given.whitespace)
    if given.json_object:
        kinds["json_object"] = JsonObjectGrammar(whitespace_pattern=given.whitespace)
    if given.regex is not None:
        kinds["regex"] = RegexGrammar(pattern=given.regex)
    if given.choice is not None:
        kinds["choice"] = ChoiceGrammar(choices=tuple(given.choice))
    if given.grammar is not None:
        kinds["grammar"] = LarkGrammar(text=given.grammar)
    if len(kinds) != 1:
        found = ", ".join(kinds) or "none"
        raise RequestError(
            f"structured_outputs: one of json, json_object, regex, choice and grammar is needed, but there is {found}",
            field="structured_outputs",
        )
    return next(iter(kinds.values()))


def _schema(given: dict[str, Any] | str) -> dict[str, Any]:
    if not isinstance(given, str):
        return given
    try:
        return msgspec.json.decode(given, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestError(
            f"structured_outputs.json: not a JSON object ({error})", field="structured_outputs"
        ) from None
