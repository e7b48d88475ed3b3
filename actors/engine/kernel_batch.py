"""A ragged batch as paged kernels read it: plain numbers laid out in one buffer, which one copy brings to the device.

    | ids (T) | positions (T) | slots (T) | logits_at (T) | few (F, 4) | many (M, 4) | tables (S, W) |

T tokens of S sequences, block tables of W columns. An item is a row of four: the sequence's row in the tables, its
first row in the batch, how many rows, how many keys the last of them sees. Sequences with few queries (decode, verify)
are one item each, whose keys several programs share; those with many (prefill) are cut into tiles.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from actors.engine.batch import Span

MAX_FEW_ROWS = 16  # queries of a sequence up to which its keys are split over programs

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class KernelShape:
    """Sizes of a batch, or of a bucket that batches are padded to.

    Attributes:
        num_tokens: T.
        num_few: items of few queries.
        num_many: items of many queries.
        num_tables: S.
        table_width: W.
    """

    num_tokens: int
    num_few: int
    num_many: int
    num_tables: int
    table_width: int

    @property
    def size(self) -> int:
        """Numbers in the buffer."""
        return 4 * (self.num_tokens + self.num_few + self.num_many) + self.num_tables * self.table_width


@dataclass(frozen=True, slots=True)
class KernelBatch:
    """The parts of one buffer, as views: on the host numpy arrays or tensors, on a device tensors."""

    ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    logits_at: torch.Tensor
    few: torch.Tensor
    many: torch.Tensor
    tables: torch.Tensor

    @classmethod
    def over(cls, buffer: torch.Tensor, shape: KernelShape) -> "KernelBatch":
        """Views of ``buffer`` (at least ``shape.size``,) int64."""
        count = shape.num_tokens
        sizes = (count, count, count, count, 4 * shape.num_few, 4 * shape.num_many)
        *parts, tables = buffer[: shape.size].split((*sizes, shape.num_tables * shape.table_width))
        ids, positions, slots, logits_at, few, many = parts
        return cls(
            ids, positions, slots, logits_at, few.view(-1, 4), many.view(-1, 4), tables.view(-1, shape.table_width)
        )


def batch_shape(spans: Seq[Span], rows_per_tile: int) -> KernelShape:
    """Sizes of the batch that ``spans`` make, with tiles of at most ``rows_per_tile`` rows."""
    lengths = [len(span.token_ids) for span in spans]
    return KernelShape(
        num_tokens=sum(lengths),
        num_few=sum(length <= MAX_FEW_ROWS for length in lengths),
        num_many=sum(-(-length // rows_per_tile) for length in lengths if length > MAX_FEW_ROWS),
        num_tables=len(spans),
        table_width=max(sum(count for _, count in span.runs) for span in spans),
    )


def fill_batch(batch: KernelBatch, spans: Seq[Span], block_size: int, rows_per_tile: int) -> int:
    """Write ``spans`` into a batch on the host whose rest is padding; returns how many logits are asked for."""
    ids, positions, slots, logits_at, few, many, tables = (
        part.numpy() for part in (batch.ids, batch.positions, batch.slots, batch.logits_at, batch.few, batch.many,
                                  batch.tables)
    )  # fmt: skip
    row = num_logits = num_few = num_many = 0
    for index, span in enumerate(spans):
        length, end = len(span.token_ids), span.end
        stop = row + length
        ids[row:stop] = span.token_ids
        where = np.arange(span.start, end)
        positions[row:stop] = where
        table = tables[index]
        column = 0
        for first, count in span.runs:
            table[column : column + count] = np.arange(first, first + count)
            column += count
        slots[row:stop] = table[where // block_size] * block_size + where % block_size
        logits_at[num_logits : num_logits + span.num_logits] = np.arange(stop - span.num_logits, stop)
        num_logits += span.num_logits
        if length <= MAX_FEW_ROWS:
            few[num_few] = (index, row, length, end)
            num_few += 1
        else:
            for offset in range(0, length, rows_per_tile):
                rows = min(rows_per_tile, length - offset)
                many[num_many] = (index, row + offset, rows, span.start + offset + rows)
                num_many += 1
        row = stop
    slots[row:] = -1
    ids[row:] = positions[row:] = 0
    logits_at[num_logits:] = 0
    few[num_few:] = many[num_many:] = 0
    return num_logits
