"""Names of an output's tensors: ``scores`` is a tuple over steps, so its fourth is ``scores.3``; deeper likewise."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def flatten(fields: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays by name, out of fields that are arrays, or tuples that nest them, or None."""
    return {name: array for field, value in fields.items() for name, array in _named(field, value)}


def nest(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Fields out of arrays by name: the inverse of :func:`flatten`, but for what was None or empty."""
    trees: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, last = name.split(".")
        node = trees
        for part in path:
            node = node.setdefault(part, {})
        node[last] = array
    return {field: _tuples(tree) for field, tree in trees.items()}


def _named(name: str, value: Any) -> Iterator[tuple[str, Array]]:
    if isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _named(f"{name}.{index}", item)
    elif value is not None:
        yield name, np.ascontiguousarray(value)


def _tuples(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return tuple(_tuples(tree[index]) for index in sorted(tree, key=int))
