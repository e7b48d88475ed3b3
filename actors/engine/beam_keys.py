"""The keys of one search's beams as one set: each block once, and who of them may see it.

Beams share most of their past, so reading it once for all of them costs little more than reading it for one. A key that
some beam shares with none is masked from the others.

::

    beam 0: [4 5 9]     blocks read once: 4 5 9 7 8     beam 0 sees: 4 5 9 . .
    beam 1: [4 5 7]                                     beam 1 sees: 4 5 . 7 .
    beam 2: [4 5 8]                                     beam 2 sees: 4 5 . . 8
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch

Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class BeamKeys:
    """What B beams of equal length attend to.

    Attributes:
        runs: (first slot, number of slots) of the K keys.
        visible: (B, K) bool.
        positions: (K,) int64, of the keys in their sequences.
    """

    runs: Runs
    visible: torch.Tensor
    positions: torch.Tensor

    def num_outside(self, first: int) -> int:
        """How many of the leading keys lie before position ``first``."""
        return int((self.positions >= first).to(torch.uint8).argmax())

    def mask(self, first: int, skip: int) -> torch.Tensor:
        """(B, K - skip) bool: what each beam sees from position ``first`` on, without the ``skip`` leading keys."""
        return (self.visible & (self.positions >= first))[:, skip:]


def beam_keys(tables: Seq[Runs], num_tokens: int, block_size: int) -> BeamKeys:
    """Join the keys of beams.

    Args:
        tables: runs of blocks, (first block, number of blocks), of each beam.
        num_tokens: keys of each.
        block_size: tokens a block.
    """
    num_blocks = -(-num_tokens // block_size)
    blocks = np.stack([_blocks(runs)[:num_blocks] for runs in tables])  # (B, D)
    held = np.full(num_blocks, block_size)  # (D,) keys of the block at each depth
    held[-1] = num_tokens - (num_blocks - 1) * block_size
    runs: list[tuple[int, int]] = []
    seen: list[np.ndarray[tuple[int], np.dtype[np.bool_]]] = []
    depths: list[int] = []
    for depth, count in enumerate(held.tolist()):
        column = blocks[:, depth]
        for block in dict.fromkeys(column.tolist()):
            first = block * block_size
            if runs and sum(runs[-1]) == first:
                runs[-1] = (runs[-1][0], runs[-1][1] + count)
            else:
                runs.append((first, count))
            seen.append(column == block)
            depths.append(depth)
    num_keys = held[depths]  # (U,) keys of each distinct block
    offsets = np.arange(num_keys.sum()) - np.repeat(np.cumsum(num_keys) - num_keys, num_keys)
    return BeamKeys(
        runs=tuple(runs),
        visible=torch.from_numpy(np.repeat(np.stack(seen, axis=1), num_keys, axis=1)),
        positions=torch.from_numpy(np.repeat(np.array(depths) * block_size, num_keys) + offsets),
    )


def _blocks(runs: Runs) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.concatenate([np.arange(first, first + count) for first, count in runs])
