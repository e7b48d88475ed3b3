"""One ragged forward over the paged cache."""

from collections.abc import Sequence as Seq
from itertools import groupby

import numpy as np
import torch

from actors.engine.attention import AttentionSpan, PagedAttention, attention_context
from actors.engine.batch import Span
from actors.engine.beam_keys import beam_keys
from actors.engine.forward import input_device, packed_forward
from actors.engine.kv_cache import KVCache
from actors.engine.loaded import LoadedModel

Runs = tuple[tuple[int, int], ...]


class PagedRunner:
    """Packs the spans of a step into one row, runs the model over it, and returns the logits asked for."""

    is_chunkable = True

    def __init__(self, loaded: LoadedModel, cache: KVCache, max_num_tokens: int) -> None:
        self._model = loaded.model
        self._cache = cache
        self._device = input_device(loaded)
        self._devices = {spec.device for spec in cache.layers.values()}
        # Static buffers, pinned where there is a GPU: a step's inputs are written in place and copied once.
        self._inputs = torch.zeros(4, max_num_tokens, dtype=torch.int64, pin_memory=self._device.type == "cuda")
        self._inputs_np = self._inputs.numpy()

    def forward(self, spans: Seq[Span], num_layers: int = 0) -> torch.Tensor:
        """See :class:`actors.engine.runner.Runner`."""
        num_tokens = num_logits = 0
        num_rows = sum(len(span.token_ids) for span in spans)
        if num_rows > self._inputs.shape[1]:
            self._inputs = torch.zeros(4, num_rows, dtype=torch.int64, pin_memory=self._inputs.is_pinned())
            self._inputs_np = self._inputs.numpy()
        ids, positions, slots, logits_at = self._inputs_np
        plan: list[AttentionSpan] = []
        for span in spans:
            stop = num_tokens + len(span.token_ids)
            ids[num_tokens:stop] = span.token_ids
            positions[num_tokens:stop] = np.arange(span.start, span.end)
            key_slots = slot_runs(span.runs, span.end, self._cache.block_size)
            slots[num_tokens:stop] = slots_between(key_slots, span.start, span.end)
            logits_at[num_logits : num_logits + span.num_logits] = np.arange(stop - span.num_logits, stop)
            if not span.group:
                plan.append(AttentionSpan(num_tokens, stop - num_tokens, span.end, key_slots))
            num_tokens, num_logits = stop, num_logits + span.num_logits
        plan += beam_spans(spans, self._cache.block_size)
        if num_logits == 0:  # a chunk in the middle of a prompt; the head is still asked for one row, and ignored
            logits_at[0] = 0
        inputs = self._inputs[:, :num_tokens].to(self._device, non_blocking=True)
        slots_of = {device: inputs[2].to(device, non_blocking=True) for device in self._devices}
        with torch.inference_mode(), attention_context(PagedAttention(self._cache, slots_of, plan)):
            logits = packed_forward(self._model, inputs[0], inputs[1], inputs[3, : max(1, num_logits)], self._device)
        return logits[:num_logits]

    def copy(self, blocks: Seq[tuple[int, int]]) -> None:
        """See :class:`actors.engine.runner.Runner`."""
        self._cache.copy(blocks)

    def fork(self, source: str, key: str) -> None:
        """Nothing is kept outside of the blocks."""

    def forget(self, key: str) -> None:
        """Nothing is kept outside of the blocks."""


def beam_spans(spans: Seq[Span], block_size: int) -> list[AttentionSpan]:
    """One span for each search whose beams stand side by side in ``spans``."""
    found = []
    first = 0
    for group, together in groupby(spans, key=lambda span: span.group):
        beams = list(together)
        if group:
            keys = beam_keys([beam.runs for beam in beams], beams[0].end, block_size)
            found.append(AttentionSpan(first, len(beams), beams[0].end, keys.runs, keys))
        first += sum(len(beam.token_ids) for beam in beams)
    return found


def slot_runs(runs: Runs, num_tokens: int, block_size: int) -> Runs:
    """Runs of slots that hold the first ``num_tokens`` tokens of a sequence whose runs of blocks are ``runs``."""
    result = []
    for first, count in runs:
        held = min(num_tokens, count * block_size)
        if held <= 0:
            break
        result.append((first * block_size, held))
        num_tokens -= held
    return tuple(result)


def slots_between(runs: Runs, start: int, stop: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Slots of the tokens ``start`` to ``stop`` of a sequence whose runs of slots are ``runs``."""
    pieces = []
    before = 0
    for first, count in runs:
        low, high = max(start, before), min(stop, before + count)
        if low < high:
            pieces.append(np.arange(first + low - before, first + high - before))
        before += count
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
