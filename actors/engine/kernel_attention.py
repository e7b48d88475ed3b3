"""The attention context of a step whose layers run through paged kernels."""

from dataclasses import dataclass

import torch

from actors.engine.attention import AttentionCall
from actors.engine.kernel_batch import MAX_FEW_ROWS, KernelBatch
from actors.engine.kv_cache import KVCache
from actors.engine.paged_kernels import attend_paged, write_paged


@dataclass(slots=True)
class KernelAttention:
    """Writes new keys and values, then attends the whole ragged batch in one launch, or two where it has prefills.

    Attributes:
        cache: all keys and values, on one device.
        batch: the step's numbers, on that device.
        num_splits: over how many programs the keys of sequences with few queries are spread.
        max_few_rows: the most queries of such a sequence.
        rows_per_tile: the most queries of a prefill's tile.
    """

    cache: KVCache
    batch: KernelBatch
    num_splits: int
    rows_per_tile: int
    max_few_rows: int = MAX_FEW_ROWS
    _num_calls: int = 0

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """See :class:`actors.engine.attention.AttentionContext`."""
        batch = self.batch
        keys, values = self.cache.tensors(self.cache.order[self._num_calls] if call.layer is None else call.layer)
        self._num_calls += 1
        write_paged(call.key, call.value, batch.slots, keys, values)
        out = call.query.new_empty(call.query.shape[1], call.query.shape[0], values.shape[2])
        for items, max_num_rows, num_splits in (
            (batch.few, self.max_few_rows, self.num_splits),
            (batch.many, self.rows_per_tile, 1),
        ):
            if items.shape[0] > 0:
                attend_paged(
                    call.query,
                    keys,
                    values,
                    items,
                    batch.tables,
                    out,
                    block_size=self.cache.block_size,
                    max_num_rows=max_num_rows,
                    num_splits=num_splits,
                    scaling=call.scaling,
                    window=call.window,
                    softcap=call.softcap,
                )
        return out
