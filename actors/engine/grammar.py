"""What a text may be held to: the grammars that a request can name. Plain data, free of torch and of llguidance.

A grammar rules tokens out, position by position. It is the last thing that happens to the logits before temperature,
top-k and the other warpers, so that these choose among legal tokens only, and nothing behind it can bring an illegal
token back. How it goes with other parameters:

- An eos token is legal only where the text may end, and never with ``ignore_eos``.
- A text that can only end here is ended ("stop") with its last token, whether or not there is an eos token, and
  whatever ``min_new_tokens`` says; where the text may also go on, ``min_new_tokens`` keeps it going.
- Stop strings, ``max_new_tokens`` and ``max_time`` end a sequence as ever, also in the middle of its grammar.
- ``bad_words_ids``, ``suppress_tokens`` and biases hold as well; a sequence all of whose legal tokens they rule out
  fails.
- ``forced_bos_token_id`` and ``forced_eos_token_id`` are refused beside a grammar: they would write what it forbids.
- Log-probabilities are those of the distribution after the mask.
"""

from collections.abc import Mapping
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from actors.engine.errors import RequestError

MAX_GRAMMAR_BYTES = 128 * 1024
MAX_GRAMMAR_DEPTH = 64
MAX_NUM_CHOICES = 10_000

Pattern = Annotated[str, Meta(min_length=1)]

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_DATA = ("const", "default", "enum", "examples")  # values of a schema that are no schemas themselves


class JsonSchemaGrammar(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True,
    tag_field="kind", tag="json_schema",
):  # fmt: skip
    """JSON that a schema accepts, its properties in the schema's order.

    Attributes:
        schema: JSON Schema; references only within it, and no keyword that cannot be enforced.
        whitespace_pattern: regular expression of what may stand between two JSON tokens; "" is nothing. By default a
            space, or a line break and up to 32 blanks: without a bound a model may write blanks for ever.
    """

    schema: dict[str, Any]
    whitespace_pattern: str | None = None


class JsonObjectGrammar(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True,
    tag_field="kind", tag="json_object",
):  # fmt: skip
    """Any JSON object; ``whitespace_pattern`` as in :class:`JsonSchemaGrammar`."""

    whitespace_pattern: str | None = None


class RegexGrammar(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="regex"
):
    """A text that a regular expression matches as a whole; no look-around, no back-references."""

    pattern: Pattern


class ChoiceGrammar(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="choice"
):
    """One of some texts."""

    choices: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1, max_length=MAX_NUM_CHOICES)]


class LarkGrammar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="lark"):
    """A context-free grammar in Lark's notation (with llguidance's additions) or in GBNF, llama.cpp's."""

    text: Pattern


Grammar = JsonSchemaGrammar | JsonObjectGrammar | RegexGrammar | ChoiceGrammar | LarkGrammar


def check_bounds(grammar: Grammar, field: str = "grammar") -> bytes:
    """Check what can be told from a grammar's text alone.

    Returns:
        The grammar as JSON, by which it is known: the same for equal grammars.

    Raises:
        RequestError: too long, nested too deeply, or with a reference beyond itself; names ``field`` and the limit.
    """
    if isinstance(grammar, JsonSchemaGrammar):
        _check_schema(grammar.schema, field)
    text = msgspec.json.encode(grammar)
    if len(text) > MAX_GRAMMAR_BYTES:
        raise RequestError(
            f"{field}: {len(text)} bytes, but the limit is {MAX_GRAMMAR_BYTES}",
            field=field, limit=str(MAX_GRAMMAR_BYTES),
        )  # fmt: skip
    return text


def decode_grammar(text: bytes) -> Grammar:
    """The grammar that :func:`check_bounds` gave this text for."""
    return cast(Grammar, msgspec.json.decode(text, type=Grammar))


def _check_schema(schema: Mapping[str, Any], field: str) -> None:
    """Without recursion, whatever the depth."""
    todo: list[tuple[Any, int, bool]] = [(schema, 1, False)]
    while todo:
        value, depth, is_data = todo.pop()
        if depth > MAX_GRAMMAR_DEPTH:
            raise RequestError(
                f"{field}: nested more than {MAX_GRAMMAR_DEPTH} levels deep",
                field=field, limit=str(MAX_GRAMMAR_DEPTH),
            )  # fmt: skip
        if isinstance(value, Mapping):
            if not is_data:
                _check_references(value, field)
            todo += [(child, depth + 1, is_data or name in _DATA) for name, child in value.items()]
        elif isinstance(value, list | tuple):
            todo += [(child, depth + 1, is_data) for child in value]


def _check_references(schema: Mapping[str, Any], field: str) -> None:
    for name in _REFERENCES:
        target = schema.get(name)
        if isinstance(target, str) and not target.startswith("#"):
            raise RequestError(
                f"{field}: {name} {target!r:.200} leads out of the schema, and nothing is fetched; "
                "references begin with #",
                field=field, limit="#",
            )  # fmt: skip
