"""More than a hundred JSON schemas, each bounded so that whatever a model writes under it comes to an end."""

import random
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

NAME = {"type": "string", "maxLength": 8}
SMALL = {"type": "integer", "minimum": 0, "maximum": 99}
FLAG = {"type": "boolean"}
COLOUR = {"enum": ["red", "green", "blue"]}


def closed(properties: Schema, *optional: str, **more: Any) -> Schema:
    """An object with these properties and no others, all required but the ``optional`` ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False, **more}


def some(items: Schema, least: int = 0, most: int = 3, **more: Any) -> Schema:
    """A short array."""
    return {"type": "array", "items": items, "minItems": least, "maxItems": most, **more}


def text(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


POINT = closed({"x": {"type": "integer", "minimum": -9, "maximum": 9}, "y": {"type": "integer", "enum": [0, 1, 2]}})
ADDRESS = closed({"street": NAME, "number": SMALL, "zip": text("^[0-9]{5}$")})

SCALARS: dict[str, Schema] = {
    "boolean": FLAG,
    "null": {"type": "null"},
    "integer from 0": {"type": "integer", "minimum": 0, "maximum": 9},
    "integer negative": {"type": "integer", "minimum": -500, "maximum": -5},
    "integer around zero": {"type": "integer", "minimum": -12, "maximum": 345},
    "integer exclusive": {"type": "integer", "exclusiveMinimum": 9, "exclusiveMaximum": 101},
    "integer multiple": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 1000},
    "integer of one value": {"type": "integer", "minimum": 7, "maximum": 7},
    "number as cents": {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 10},
    "string short": {"type": "string", "maxLength": 5},
    "string exact": {"type": "string", "minLength": 4, "maxLength": 4},
    "string empty": {"type": "string", "maxLength": 0},
    "string between": {"type": "string", "minLength": 2, "maxLength": 9},
    "string or null": {"type": ["string", "null"], "maxLength": 6},
    "three types": {"type": ["boolean", "null", "integer"], "minimum": 1, "maximum": 50},
    "enum of strings": {"enum": ["alpha", "alphabet", "beta", "", "a b"]},
    "enum of anything": {"enum": [1, "1", None, True, [1, 2], {"a": 1}]},
    "enum of one": {"enum": ["only this"]},
    "const string": {"const": 'fixed "quoted" text\n'},
    "const object": {"const": {"a": [1, 2, {"b": None}]}},
    "const number": {"const": 3.25},
    "format date": {"type": "string", "format": "date"},
    "format uuid": {"type": "string", "format": "uuid"},
    "format ipv4": {"type": "string", "format": "ipv4"},
}

PATTERNS: dict[str, Schema] = {
    "pattern digits": text("^[0-9]{3}-[0-9]{4}$"),
    "pattern word": text("^[a-z]{1,8}$"),
    "pattern alternatives": text("^(cat|dog|bird)s?$"),
    "pattern colour": text("^#[0-9a-fA-F]{6}$"),
    "pattern identifier": text("^[A-Za-z_][A-Za-z0-9_]{0,9}$"),
    "pattern time": text("^([01][0-9]|2[0-3]):[0-5][0-9]$"),
    "pattern version": text("^v?[0-9]{1,2}\\.[0-9]{1,2}(-(alpha|beta)\\.[1-9])?$"),
    "pattern escapes": text('^[\\\\/"]{1,4}$'),
    "pattern unicode": text("^[äöüß]{1,3}$"),
    "pattern blanks": text("^[a-c]( [a-c]){0,3}$"),
    "pattern and length": {"type": "string", "pattern": "^[ab]+$", "minLength": 3, "maxLength": 6},
    "pattern in the middle": {"type": "string", "pattern": "x[0-9]y", "maxLength": 8},
}

ARRAYS: dict[str, Schema] = {
    "array of integers": some(SMALL),
    "array of at least two": some(FLAG, 2, 4),
    "array of exactly three": some(COLOUR, 3, 3),
    "array empty": some(NAME, 0, 0),
    "array of arrays": some(some({"enum": [0, 1]}, 1, 3), 1, 3),
    "array of objects": some(POINT, 1, 3),
    "array of nullable": some({"type": ["integer", "null"], "minimum": 0, "maximum": 9}, 1, 4),
    "tuple": {"type": "array", "prefixItems": [COLOUR, SMALL, FLAG], "items": False, "minItems": 3},
    "tuple with rest": {"type": "array", "prefixItems": [NAME], "items": SMALL, "minItems": 1, "maxItems": 4},
    "array of choices": some({"anyOf": [SMALL, COLOUR]}, 2, 4),
    "matrix": some(some({"type": "integer", "minimum": -9, "maximum": 9}, 3, 3), 3, 3),
    "array deep": some(some(some(some(FLAG, 1, 2), 1, 2), 1, 2), 1, 2),
}

OBJECTS: dict[str, Schema] = {
    "object empty": closed({}),
    "object flat": closed({"name": NAME, "age": SMALL, "member": FLAG}),
    "object nested": closed({"who": closed({"first": NAME, "last": NAME}), "where": ADDRESS}),
    "object deep": closed({"a": closed({"b": closed({"c": closed({"d": closed({"e": SMALL})})})})}),
    "object optional": closed({"a": SMALL, "b": COLOUR, "c": FLAG}, "b", "c"),
    "object all optional": closed({"a": SMALL, "b": COLOUR}, "a", "b"),
    "object with lists": closed({"tags": some(COLOUR, 0, 3), "points": some(POINT, 1, 2)}),
    "object nullable": closed({"note": {"anyOf": [NAME, {"type": "null"}]}, "id": SMALL}),
    "object odd names": closed({"with space": FLAG, "quo\"te": FLAG, "ümlaut": FLAG, "$ref": FLAG, "": FLAG}),
    "object map of small": {
        "type": "object", "additionalProperties": SMALL, "minProperties": 0, "maxProperties": 0,
    },
    "object with a fixed kind": closed({"kind": {"const": "circle"}, "radius": SMALL}),
    "object of patterns": closed({"phone": PATTERNS["pattern digits"], "at": PATTERNS["pattern time"]}),
    "object titles": closed({"x": {**SMALL, "title": "X", "description": "how far", "default": 3}}, title="Point"),
    "tool call": closed({"name": {"const": "search"}, "arguments": closed({"query": NAME, "limit": SMALL})}),
    "invoice": closed(
        {
            "number": text("^[A-Z]{2}[0-9]{4}$"),
            "paid": FLAG,
            "lines": some(closed({"item": NAME, "count": {"type": "integer", "minimum": 1, "maximum": 20}}), 1, 3),
            "address": ADDRESS,
        }
    ),
    "character": closed(
        {"name": NAME, "class": {"enum": ["mage", "rogue"]}, "stats": closed({"str": SMALL, "int": SMALL}),
         "items": some(NAME, 0, 2)}
    ),
}  # fmt: skip

COMBINED: dict[str, Schema] = {
    "anyOf scalars": {"anyOf": [SMALL, FLAG, {"type": "null"}]},
    "anyOf objects": {"anyOf": [POINT, ADDRESS]},
    "anyOf nested": {"anyOf": [{"anyOf": [COLOUR, FLAG]}, some(COLOUR, 1, 2)]},
    "anyOf beside properties": closed({"v": {"anyOf": [some(SMALL, 1, 2), closed({"w": SMALL})]}}),
    "oneOf by type": {"oneOf": [SMALL, NAME]},
    "oneOf by kind": {
        "oneOf": [closed({"kind": {"const": "a"}, "x": SMALL}), closed({"kind": {"const": "b"}, "y": FLAG})]
    },
    "allOf ranges": {"allOf": [{"type": "integer", "minimum": 5}, {"maximum": 60}]},
    "allOf of one": {"allOf": [POINT]},
    "allOf lengths": {"type": "string", "allOf": [{"minLength": 2}, {"maxLength": 4}]},
}

REFERENCES: dict[str, Schema] = {
    "ref": {"$defs": {"colour": COLOUR}, **closed({"c": {"$ref": "#/$defs/colour"}, "n": SMALL})},
    "ref twice": {"$defs": {"p": POINT}, **closed({"from": {"$ref": "#/$defs/p"}, "to": {"$ref": "#/$defs/p"}})},
    "ref old style": {"definitions": {"n": SMALL}, **some({"$ref": "#/definitions/n"}, 1, 3)},
    "ref to a ref": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": FLAG}, "$ref": "#/$defs/a"},
    "ref to a property": {"properties": {"a": SMALL}, **closed({"a": SMALL, "b": {"$ref": "#/properties/a"}})},
    "ref in items": {"$defs": {"t": ADDRESS}, **some({"$ref": "#/$defs/t"}, 1, 2)},
    "chain": {
        "$defs": {f"n{i}": closed({"v": FLAG, "next": {"$ref": f"#/$defs/n{i + 1}"}}) for i in range(4)} | {"n4": FLAG},
        "$ref": "#/$defs/n0",
    },
    "tree of two levels": {
        "$defs": {
            "leaf": closed({"v": SMALL}),
            "node": closed({"v": SMALL, "c": some({"$ref": "#/$defs/leaf"}, 0, 2)}),
        },
        **closed({"root": {"$ref": "#/$defs/node"}}),
    },
}


DEPTH = 3


def grown(seed: int) -> Schema:
    """A random schema; the same for the same seed."""
    return _grow(random.Random(seed), DEPTH)


def _grow(source: random.Random, depth: int) -> Schema:
    if depth == 0 or (depth < DEPTH and source.random() < 0.15):
        low = source.randint(-50, 50)
        return source.choice(
            [
                {"type": "integer", "minimum": low, "maximum": low + source.randint(0, 300)},
                {"type": "string", "minLength": source.randint(0, 2), "maxLength": source.randint(2, 6)},
                {"enum": source.sample(["on", "off", "auto", 0, 1, None, True, "x" * source.randint(1, 9)], 4)},
                {"type": source.choice(["boolean", "null", ["boolean", "null"]])},
                {"const": source.choice([low, str(low), [low], {"at": low}])},
                text(f"^[a-f]{{1,{source.randint(1, 4)}}}[0-9]?$"),
            ]
        )
    if source.random() < 0.25:
        return {"anyOf": [_grow(source, depth - 1) for _ in range(source.randint(2, 3))]}
    if source.random() < 0.4:
        least = source.randint(0, 2)
        return some(_grow(source, depth - 1), least, least + source.randint(0, 1))
    names = source.sample(["id", "name", "size", "kind", "list", "more", "Schlüssel", "a.b"], source.randint(1, 3))
    return closed({name: _grow(source, depth - 1) for name in names}, *(n for n in names if source.random() < 0.3))


def _all() -> Iterator[tuple[str, Schema]]:
    for family in (SCALARS, PATTERNS, ARRAYS, OBJECTS, COMBINED, REFERENCES):
        yield from family.items()
    for seed in range(36):
        yield f"grown {seed}", grown(seed)


SCHEMAS: dict[str, Schema] = dict(_all())
