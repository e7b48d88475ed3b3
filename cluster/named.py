"""Logits processors and stopping criteria that a caller only names, for the operator's registry to make."""

from collections.abc import Mapping
from typing import Any

import msgspec

from actors.engine.errors import RequestError
from actors.engine.params import NamedProcessor

# Arguments of ``generate``, and the parameters of the engine that name what the registry makes.
NAMED_AS = {"logits_processor": "logits_processors", "stopping_criteria": "stopping_criteria"}


def named_processors(argument: str, value: Any) -> tuple[NamedProcessor, ...]:
    """What a caller names: strings, mappings of ``name`` and ``args``, or NamedProcessors. None where it names none.

    Raises:
        RequestError: names and objects are mixed, whose order could not be kept, or a mapping is none of a name.
    """
    items = list(value) if isinstance(value, list | tuple) else []
    names = [item for item in items if isinstance(item, str | Mapping | NamedProcessor)]
    if names and len(names) < len(items):
        raise RequestError(f"{argument}: give either names or objects, not a mix", field=argument)
    return tuple(_named(argument, item) for item in names)


def _named(argument: str, item: str | Mapping[str, Any] | NamedProcessor) -> NamedProcessor:
    if isinstance(item, NamedProcessor):
        return item
    try:
        return msgspec.convert({"name": item} if isinstance(item, str) else dict(item), NamedProcessor)
    except msgspec.ValidationError as error:
        raise RequestError(f"{argument}: {error}", field=argument) from None
