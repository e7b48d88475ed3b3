"""transformers' output objects whose large fields stay in the object store until somebody looks at them."""

from collections.abc import Callable, ItemsView, ValuesView
from functools import cache
from typing import Any

from transformers.utils.generic import ModelOutput


class _Deferred:
    """Stands where a field will be."""

    def __init__(self, fetch: Callable[[], Any]) -> None:
        self.fetch = fetch


class _Fetching(ModelOutput):
    """Fetches a field the first time that it is read, by whichever of a ModelOutput's ways."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if type(value) is _Deferred:
            value = value.fetch()
            self[name] = value
        return value

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """All fields that there are; fetches them."""
        return {key: self[key] for key in self.keys()}.items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """All fields that there are; fetches them."""
        return {key: self[key] for key in self.keys()}.values()


def deferred_output(kind: type, small: dict[str, Any], large: tuple[str, ...], fetch: Callable[[str], Any]) -> Any:
    """An output of class ``kind`` (of a subclass, that is) whose ``large`` fields are fetched when they are read.

    Args:
        kind: one of transformers' ``Generate*Output``.
        small: fields that are here already.
        large: names of the others.
        fetch: gets one of them.
    """
    waiting = {name: _Deferred(lambda name=name: fetch(name)) for name in large}  # type: ignore[misc]
    return _deferring(kind)(**small, **waiting)


@cache
def _deferring(kind: type) -> type:
    return type(kind.__name__, (_Fetching, kind), {"__doc__": kind.__doc__, "__module__": kind.__module__})
