"""Ragged batches laid out for kernels."""

import pytest
import torch

from actors.engine.batch import Span
from actors.engine.four_bit import code_pairs
from actors.engine.fused_linear import use_fused_linears
from actors.engine.kernel_batch import KernelBatch, KernelShape, batch_shape, fill_batch
from actors.engine.step_graphs import padded

LONG = Span("long", range(100, 120), 3, ((5, 2), (1, 1)), 2)  # 20 ids behind 3, blocks of 8
SHORT = Span("short", [7, 8], 9, ((3, 2),), 1)


def test_a_batch_holds_what_its_spans_say() -> None:
    shape = batch_shape([LONG, SHORT], rows_per_tile=16)
    assert shape == KernelShape(num_tokens=22, num_few=1, num_many=2, num_tables=2, table_width=3)
    bucket = KernelShape(24, 2, 2, 2, 4)
    batch = KernelBatch.over(torch.full((bucket.size + 5,), 99), bucket)
    assert fill_batch(batch, [LONG, SHORT], block_size=8, rows_per_tile=16) == 3
    assert batch.ids.tolist() == [*range(100, 120), 7, 8, 0, 0]
    assert batch.positions.tolist() == [*range(3, 23), 9, 10, 0, 0]
    in_blocks = [*range(43, 48), *range(48, 56), *range(8, 15)]  # of blocks 5, 6, 1, from position 3
    assert batch.slots.tolist() == [*in_blocks, 33, 34, -1, -1]
    assert batch.logits_at.tolist()[:4] == [18, 19, 21, 0]
    assert batch.few.tolist() == [[1, 20, 2, 11], [0, 0, 0, 0]]
    assert batch.many.tolist() == [[0, 0, 16, 19], [0, 16, 4, 23]]
    assert batch.tables[0, :3].tolist() == [5, 6, 1]
    assert batch.tables[1, :2].tolist() == [3, 4]


def test_views_are_of_one_buffer_and_do_not_overlap() -> None:
    shape = KernelShape(3, 1, 1, 2, 2)
    buffer = torch.zeros(shape.size, dtype=torch.int64)
    batch = KernelBatch.over(buffer, shape)
    parts = [batch.ids, batch.positions, batch.slots, batch.logits_at, batch.few, batch.many, batch.tables]
    for number, part in enumerate(parts, start=1):
        part.fill_(number)
    assert buffer.tolist() == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 4 + [6] * 4 + [7] * 4


@pytest.mark.parametrize(("count", "bucket"), [(1, 8), (8, 8), (9, 16), (64, 64), (65, 96), (256, 256), (300, 300)])
def test_buckets(count: int, bucket: int) -> None:
    assert padded(count) == bucket


def test_pairs_have_the_high_nibble_first() -> None:
    levels = torch.linspace(-1, 1, 16)
    pairs = code_pairs(levels, torch.float32)
    assert torch.equal(pairs[0x3A], levels[[3, 10]])


def test_layers_on_a_cpu_are_not_fused() -> None:
    assert use_fused_linears(torch.nn.Sequential(torch.nn.Linear(64, 64))) == 0
