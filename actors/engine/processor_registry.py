"""Logits processors and stopping criteria by name: the operator says which there are, a request may only name them.

The import paths come from the cluster's configuration and from nowhere else. What a path leads to is called with the
arguments of a request, anew for each sequence, and must give a ``LogitsProcessor`` or a ``StoppingCriteria`` of
transformers, a pure function of (ids, scores): it is called for prefixes with drafted tokens that are taken back later.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from actors.engine.errors import ConfigError, GenerationError, RequestError
from actors.engine.params import NamedProcessor

KINDS: dict[type, str] = {LogitsProcessor: "a logits processor", StoppingCriteria: "a stopping criterion"}

T = TypeVar("T")


class NamedLogitsProcessor(LogitsProcessor):
    """One that was asked for by name. What it raises fails its own request, under that name."""

    def __init__(self, name: str, processor: LogitsProcessor) -> None:
        self._name = name
        self._processor = processor

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocab) behind ids (rows, n). Raises GenerationError."""
        try:
            processed = self._processor(input_ids, scores)
        except Exception as error:
            raise _failed(self._name, error) from error
        if not isinstance(processed, Tensor) or processed.shape != scores.shape:
            given = tuple(processed.shape) if isinstance(processed, Tensor) else type(processed).__name__
            raise GenerationError(
                f"{self._name}: scores of shape {tuple(scores.shape)} are needed, but it gave {given}"
            )
        return processed


class NamedStoppingCriteria(StoppingCriteria):
    """One that was asked for by name. What it raises fails its own request, under that name."""

    def __init__(self, name: str, criterion: StoppingCriteria) -> None:
        self._name = name
        self._criterion = criterion

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which rows of ids (rows, n) are at their end, (rows,) bool. Raises GenerationError."""
        try:
            ends = self._criterion(input_ids, scores, **kwargs)
            return torch.as_tensor(ends, dtype=torch.bool, device=input_ids.device).expand(len(input_ids))
        except Exception as error:
            raise _failed(self._name, error) from error


class ProcessorRegistry:
    """What requests may name.

    Args:
        factories: makes a processor or a criterion from a request's arguments, by name.
    """

    def __init__(self, factories: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self._factories = dict(factories or {})

    @classmethod
    def load(cls, paths: Mapping[str, str]) -> Self:
        """Import what ``processors`` of the configuration names, each path a ``module:attribute``.

        Raises ConfigError naming the entry that leads nowhere, or to what is neither.
        """
        return cls({name: _import(name, path) for name, path in paths.items()})

    def logits_processors(self, named: Sequence[NamedProcessor]) -> LogitsProcessorList:
        """Make them, in order. Raises RequestError: an unknown name, arguments that do not fit, no logits processor."""
        made = self._make(named, LogitsProcessor, "logits_processors")
        return LogitsProcessorList(NamedLogitsProcessor(name, processor) for name, processor in made)

    def stopping_criteria(self, named: Sequence[NamedProcessor]) -> StoppingCriteriaList:
        """Make them, in order. Raises RequestError as above."""
        made = self._make(named, StoppingCriteria, "stopping_criteria")
        return StoppingCriteriaList([NamedStoppingCriteria(name, criterion) for name, criterion in made])

    def _make(self, named: Sequence[NamedProcessor], kind: type[T], field: str) -> list[tuple[str, T]]:
        return [(item.name, self._make_one(item, kind, field)) for item in named]

    def _make_one(self, item: NamedProcessor, kind: type[T], field: str) -> T:
        factory = self._factories.get(item.name)
        if factory is None:
            known = ", ".join(sorted(self._factories)) or "none"
            raise RequestError(f"{field}: {item.name!r} is not registered here, only {known}", field=field, limit=known)
        takes = str(inspect.signature(factory)).partition(" ->")[0]
        try:
            inspect.signature(factory).bind(**item.args)
        except TypeError as error:
            raise RequestError(f"{field}: {item.name} takes {takes}: {error}", field=field, limit=takes) from None
        try:
            made = factory(**item.args)
        except Exception as error:
            raise RequestError(f"{field}: {item.name}{takes} refuses its args: {error}", field=field) from error
        if not isinstance(made, kind):
            raise RequestError(f"{field}: {item.name!r} is not {KINDS[kind]}", field=field)
        return made


def _import(name: str, path: str) -> Callable[..., Any]:
    where = f"processors: {name} is {path!r}"
    module_name, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(f"{where}, but {module_name} cannot be imported: {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{where}, but there is no {attribute} in {module_name}")
        found = getattr(found, part)
    if inspect.isclass(found) and not issubclass(found, tuple(KINDS)):
        raise ConfigError(f"{where}, but that class is no LogitsProcessor or StoppingCriteria of transformers")
    if not callable(found):
        raise ConfigError(f"{where}, but that is not a class or a function: it is {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _failed(name: str, error: Exception) -> GenerationError:
    return GenerationError(f"{name}: {type(error).__name__}: {error}")
