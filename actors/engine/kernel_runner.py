"""Forwards on a GPU: one launch of paged kernels a layer for the whole ragged batch, whole steps as CUDA graphs."""

from collections.abc import Sequence as Seq
from contextlib import nullcontext
from dataclasses import replace

import torch

from actors.engine.attention import attention_context
from actors.engine.batch import Span
from actors.engine.compiled_layers import CompiledLayers
from actors.engine.forward import packed_forward
from actors.engine.kernel_attention import KernelAttention
from actors.engine.kernel_batch import MAX_FEW_ROWS, KernelBatch, KernelShape, batch_shape, fill_batch
from actors.engine.kv_cache import KVCache
from actors.engine.loaded import LoadedModel
from actors.engine.paged_kernels import SPLIT_KEYS
from actors.engine.step_graphs import MAX_GRAPH_TOKENS, Bucket, StepGraphs, padded

MAX_TILE_ROWS = 128  # query rows, over all heads that share keys, of a prefill's tile


class KernelRunner:
    """Fulfils :class:`actors.engine.runner.Runner` for a model whose layers are all on one device.

    Args:
        loaded: the model.
        cache: its keys and values.
        max_num_tokens: the most that a step usually computes.
        has_graphs: whether steps are captured.
        layers: the model's compiled layers; None where they run as they are.
    """

    is_chunkable = True

    def __init__(
        self,
        loaded: LoadedModel,
        cache: KVCache,
        max_num_tokens: int,
        *,
        has_graphs: bool,
        layers: CompiledLayers | None = None,
    ) -> None:
        self._model = loaded.model
        self._layers = layers
        self._cache = cache
        (self._device,) = {spec.device for spec in cache.layers.values()}
        num_heads = int(loaded.config.num_attention_heads)
        group_size = max(num_heads // spec.num_kv_heads for spec in cache.layers.values())
        self._rows_per_tile = max(1, MAX_TILE_ROWS // group_size)
        self._is_cuda = self._device.type == "cuda"
        self._host = torch.empty(8 * max_num_tokens, dtype=torch.int64, pin_memory=self._is_cuda)
        self._copied = torch.cuda.Event() if self._is_cuda else None
        self.graphs = StepGraphs(self._captured_forward, self._device) if has_graphs else None

    def forward(self, spans: Seq[Span], num_layers: int = 0) -> torch.Tensor:
        """See :class:`actors.engine.runner.Runner`."""
        shape = batch_shape(spans, self._rows_per_tile)
        bucket = self._bucket(shape, max(len(span.token_ids) for span in spans), num_layers)
        is_captured = shape.num_many == 0 and self.graphs is not None and self.graphs.can_run(bucket)
        # Compiled layers are compiled once more for a single token, which two never are.
        shape = bucket.shape if is_captured else replace(shape, num_tokens=padded(shape.num_tokens))
        if self._copied is not None:
            self._copied.synchronize()  # the step before may still be reading what is written now
        if shape.size > self._host.numel():
            self._host = torch.empty(2 * shape.size, dtype=torch.int64, pin_memory=self._is_cuda)
        inputs = self._host[: shape.size]
        num_logits = fill_batch(KernelBatch.over(inputs, shape), spans, self._cache.block_size, self._rows_per_tile)
        if is_captured:
            assert self.graphs is not None
            logits = self.graphs.run(bucket, inputs)
        else:
            batch = KernelBatch.over(inputs.to(self._device, non_blocking=True), shape)
            logits = self._compute(batch, bucket, max(1, num_logits))
        if self._copied is not None:
            self._copied.record()
        return logits[:num_logits]

    def copy(self, blocks: Seq[tuple[int, int]]) -> None:
        """See :class:`actors.engine.runner.Runner`."""
        self._cache.copy(blocks)

    def fork(self, source: str, key: str) -> None:
        """Nothing is kept outside of the blocks."""

    def forget(self, key: str) -> None:
        """Nothing is kept outside of the blocks."""

    def warm_up(self, num_sequences: int) -> None:
        """Capture what will be met first: decoding of few to ``num_sequences`` sequences, checks of some of them."""
        if self.graphs is None:
            return
        for count in sorted({padded(min(num_sequences, count)) for count in (1, 8, 16, 32, 64)}, reverse=True):
            shape = KernelShape(count, count, 0, count, 1)
            if not self.graphs.can_run(self._bucket(shape, 1, 0)):
                return
        for rows in (2, 4, 8):
            self.graphs.can_run(self._bucket(KernelShape(rows, 1, 0, 1, 1), rows, 0))

    def _bucket(self, shape: KernelShape, max_rows: int, num_layers: int) -> Bucket:
        """The bucket that a batch of few queries a sequence falls into."""
        num_keys = shape.table_width * self._cache.block_size
        num_splits = _power_of_two(-(-num_keys // SPLIT_KEYS))
        if shape.num_many or shape.num_tokens > MAX_GRAPH_TOKENS:
            return Bucket(shape, min(max_rows, MAX_FEW_ROWS), num_splits, num_layers)
        num_spans = padded(shape.num_few)
        width = -(-num_splits * SPLIT_KEYS // self._cache.block_size)
        own = KernelShape(max(padded(shape.num_tokens), num_spans), num_spans, 0, num_spans, width)
        return Bucket(own, _power_of_two(max_rows), num_splits, num_layers)

    def _captured_forward(self, batch: KernelBatch, bucket: Bucket) -> torch.Tensor:
        return self._compute(batch, bucket, bucket.shape.num_tokens)

    def _compute(self, batch: KernelBatch, bucket: Bucket, num_logits: int) -> torch.Tensor:
        attention = KernelAttention(
            self._cache, batch, bucket.num_splits, self._rows_per_tile, max_few_rows=bucket.max_few_rows
        )
        with (
            torch.inference_mode(),
            attention_context(attention),
            self._layers.in_use() if self._layers else nullcontext(),
        ):
            return packed_forward(self._model, batch.ids, batch.positions, batch.logits_at[:num_logits], self._device)


def _power_of_two(count: int) -> int:
    """The smallest power of two that is at least ``count``."""
    return 1 << max(0, count - 1).bit_length()
