"""The way round for models that the paged attention cannot serve: transformers' own cache, one sequence at a time."""

import copy
import inspect
from collections.abc import Sequence as Seq
from typing import Any

import torch

from actors.engine.batch import Span
from actors.engine.forward import input_device
from actors.engine.loaded import LoadedModel


class CachedRunner:
    """Keeps one transformers cache a sequence.

    The state of such models can often neither be cut back nor continued by several ids at once, so a sequence begins
    with all its ids in one forward and goes on id by id.
    """

    is_chunkable = False

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._device = input_device(loaded)
        names = inspect.signature(loaded.model.forward).parameters
        self._cache_name = next((n for n in ("past_key_values", "cache_params") if n in names), None)
        self._caches: dict[str, Any] = {}

    def forward(self, spans: Seq[Span], num_layers: int = 0) -> torch.Tensor:
        """See :class:`actors.engine.runner.Runner`."""
        with torch.inference_mode():
            rows = [self._extend(span) for span in spans]
        return torch.cat(rows)

    def copy(self, blocks: Seq[tuple[int, int]]) -> None:
        """Nothing is kept in blocks."""

    def fork(self, source: str, key: str) -> None:
        """Copy the cache of a sequence."""
        if source in self._caches:
            self._caches[key] = copy.deepcopy(self._caches[source])

    def forget(self, key: str) -> None:
        """Drop the cache of a sequence."""
        self._caches.pop(key, None)

    def _extend(self, span: Span) -> torch.Tensor:
        """Logits (num_logits, vocab_size) of one sequence."""
        ids = list(span.token_ids)
        if span.start == 0:
            self._caches.pop(span.key, None)
            return (
                self._call(span.key, ids)[:, -span.num_logits :][0]
                if span.num_logits
                else self._call(span.key, ids)[0, :0]
            )
        rows = [self._call(span.key, [token])[0] for token in ids]
        return torch.cat(rows)[len(ids) - span.num_logits :]

    def _call(self, key: str, ids: list[int]) -> torch.Tensor:
        """Run ``ids`` behind what the cache holds: logits (1, len(ids), vocab_size)."""
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=self._device), "use_cache": True}
        if self._cache_name is not None and key in self._caches:
            inputs[self._cache_name] = self._caches[key]
        out = self._model(**inputs)
        if self._cache_name is not None:
            self._caches[key] = out[self._cache_name]
        logits: torch.Tensor = out.logits
        return logits
