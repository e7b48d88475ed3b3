"""Grammars in llguidance's form, and what is wrong with one: found without a tokenizer, so without the model.

A fault is found here before a request travels. llguidance works on a budget, in lexer and grammar items and not in
seconds, so that a grammar is refused everywhere or nowhere; the dearest that pass take about half a second. Nothing a
grammar refers to is fetched: references out of a schema are refused, and llguidance has no way to follow them.
"""

import json
from functools import lru_cache

import msgspec
from llguidance import LLMatcher, LLParserLimits, grammar_from

from actors.engine.errors import RequestError
from actors.engine.grammar import (
    ChoiceGrammar,
    Grammar,
    JsonObjectGrammar,
    JsonSchemaGrammar,
    LarkGrammar,
    RegexGrammar,
    check_bounds,
    decode_grammar,
)

DEFAULT_WHITESPACE = r"( ?|\n[ \t]{0,32})"
MAX_FAULT_LENGTH = 500
LIMITS = LLParserLimits(max_grammar_size=200_000, max_lexer_states=50_000, verbose_errors=False)


def check_grammar(grammar: Grammar, field: str = "grammar") -> None:
    """Check a grammar as far as that can be done without a tokenizer. Cached; a long one takes up to half a second.

    Raises:
        RequestError: it is too large, is no grammar, or uses what cannot be enforced; names ``field`` and the limit.
    """
    fault = _fault(check_bounds(grammar, field))
    if fault:
        raise RequestError(f"{field}: {fault}", field=field, limit="a grammar that can be enforced")


def to_llguidance(grammar: Grammar) -> str:
    """The grammar in llguidance's notation. Raises ValueError where it is not even text of its kind."""
    match grammar:
        case JsonSchemaGrammar(schema=schema, whitespace_pattern=whitespace):
            return _from_schema(msgspec.json.encode(schema).decode(), whitespace)
        case JsonObjectGrammar(whitespace_pattern=whitespace):
            return _from_schema('{"type": "object"}', whitespace)
        case RegexGrammar(pattern=pattern):
            return LLMatcher.grammar_from_regex(pattern)
        case ChoiceGrammar(choices=choices):
            return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, choices)))
        case LarkGrammar(text=text):
            return grammar_from("grammar", text)


def in_brief(error: str) -> str:
    """What llguidance says is wrong, without the excerpts and traces around it."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    reason = next((line for line in lines[1:] if line.startswith("error: ")), "")
    return " ".join([*lines[:1], *([reason] if reason else [])])[:MAX_FAULT_LENGTH]


def _from_schema(schema: str, whitespace: str | None) -> str:
    if whitespace is None:
        return LLMatcher.grammar_from_json_schema(schema, {"whitespace_pattern": DEFAULT_WHITESPACE})
    return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": whitespace})


@lru_cache(maxsize=256)
def _fault(text: bytes) -> str:
    """Why a grammar cannot be used; empty where it can."""
    try:
        return in_brief(LLMatcher.validate_grammar(to_llguidance(decode_grammar(text)), limits=LIMITS))
    except ValueError as error:
        return in_brief(str(error)) or "no grammar of its kind"
