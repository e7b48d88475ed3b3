"""Who holds which KV block: reference counts, the prefix cache, and runs of neighbouring blocks.

A sequence's cache is an ordered table of blocks of ``block_size`` tokens each. Three things are particular here:

- **Neighbours.** Kernels read a run of neighbouring blocks as one view, without a gather, so the pool hands out the
  block behind a sequence's last one where it can, and keeps the space behind a young sequence for it as long as others
  find room elsewhere (a *home*; nothing is lost by it, homes are taken when memory is short).
- **Contents.** A full block whose tokens are final is known by a digest of them and of all tokens before. When its last
  holder leaves, it stays *cached* until its space is needed, oldest first, and a sequence that begins alike takes it.
- **Forks.** Beams of one search share what they have in common, their last block too until one of them writes into it.

::

    block      0    1    2    3    4    5    6    7
    ref        1    1    0    0    2    0    1    0
    content    A    -    -    -    B    C    -    -         A, B: held and known; C: free but cached
    table s0: [0, 1] (home: 2, 3)     table s1: [4, 6]     table s2: [4]
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from actors.engine.errors import SlipstreamError

Digest = bytes


class NoFreeBlocksError(SlipstreamError):
    """Every block is held."""


def block_digest(parent: Digest, token_ids: Sequence[int]) -> Digest:
    """Digest of a full block: of its tokens and, through ``parent``, of all before it.

    Cryptographic, since a collision would hand one request's cache to another.
    """
    return hashlib.blake2b(parent + array("q", token_ids).tobytes(), digest_size=16).digest()


class BlockTable:
    """The blocks of one sequence, in order, with the runs of neighbours they form.

    Attributes:
        ids: block ids.
        runs: [first block, number of blocks] of each run of neighbours.
        home: blocks kept for this sequence behind its last one.
    """

    __slots__ = ("home", "ids", "runs")

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.runs: list[list[int]] = []
        self.home = range(0)

    def append(self, block: int) -> None:
        """Add a block behind the last."""
        self.ids.append(block)
        if self.runs and sum(self.runs[-1]) == block:
            self.runs[-1][1] += 1
        else:
            self.runs.append([block, 1])

    def pop(self) -> int:
        """Remove the last block and return it."""
        self.runs[-1][1] -= 1
        if self.runs[-1][1] == 0:
            self.runs.pop()
        return self.ids.pop()


class BlockPool:
    """All KV blocks of one engine. Holds no tensors, only who has which block."""

    def __init__(self, num_blocks: int, block_size: int, *, prefix_cache: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._prefix_cache = prefix_cache
        self._refs = np.zeros(num_blocks, dtype=np.int32)
        self._homes = np.zeros(num_blocks, dtype=np.int32)
        self._digest_of: dict[int, Digest] = {}
        self._block_of: dict[Digest, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()  # free but known, oldest first
        self._num_free = num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, cached ones included."""
        return self._num_free

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold ``num_tokens``."""
        return -(-num_tokens // self.block_size)

    def can_grow(self, table: BlockTable, num_tokens: int, num_more: int = 0) -> bool:
        """Whether ``table`` can be made to hold ``num_tokens`` now, and ``num_more`` blocks be taken besides."""
        return max(0, self.num_blocks_for(num_tokens) - len(table.ids)) + num_more <= self._num_free

    def grow(self, table: BlockTable, num_tokens: int, expected_tokens: int) -> None:
        """Append blocks until ``table`` holds ``num_tokens``.

        Args:
            table: the sequence's blocks.
            num_tokens: what it must hold now.
            expected_tokens: what it may come to hold; decides where a new run is begun.

        Raises:
            NoFreeBlocksError: too few blocks are free; the table is unchanged.
        """
        if not self.can_grow(table, num_tokens):
            raise NoFreeBlocksError(f"{num_tokens} tokens need more than the {self._num_free} blocks that are free")
        for index in range(len(table.ids), self.num_blocks_for(num_tokens)):
            block = table.ids[-1] + 1 if table.ids else self.num_blocks
            if block >= self.num_blocks or self._refs[block]:
                block = self._begin_run(table, self.num_blocks_for(expected_tokens) - index)
            self._take(block)
            table.append(block)

    def adopt(self, table: BlockTable, digests: Iterable[Digest]) -> int:
        """Let an empty ``table`` begin with known blocks; returns how many of the leading digests were found."""
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            if self._refs[block] == 0:
                self._cached.pop(block)
                self._num_free -= 1
            self._refs[block] += 1
            table.append(block)
        return len(table.ids)

    def share(self, source: BlockTable, table: BlockTable, num_blocks: int) -> None:
        """Let an empty ``table`` begin with the first blocks of ``source``.

        Where the last is not full, whoever goes on in it has to :meth:`own` it first.
        """
        for block in source.ids[:num_blocks]:
            self._refs[block] += 1
            table.append(block)

    def must_own(self, table: BlockTable, num_tokens: int) -> bool:
        """Whether what follows the first ``num_tokens`` would be written into a block that others hold too."""
        return num_tokens % self.block_size > 0 and bool(self._refs[table.ids[-1]] > 1)

    def own(self, table: BlockTable) -> tuple[int, int]:
        """Replace the last block by one that only ``table`` holds. Returns both; its content has to be copied.

        Raises:
            NoFreeBlocksError: no block is free; the table is unchanged.
        """
        if not self._num_free:
            raise NoFreeBlocksError("a shared block needs a copy, and none is free")
        shared = table.pop()
        block = self._begin_run(table, 1)
        self._take(block)
        self._give_back(shared)
        table.append(block)
        return shared, block

    def publish(self, table: BlockTable, index: int, digest: Digest) -> None:
        """Make the content of a full, final block known, so that others may begin with it."""
        block = table.ids[index]
        if self._prefix_cache and block not in self._digest_of and digest not in self._block_of:
            self._digest_of[block] = digest
            self._block_of[digest] = block

    def truncate(self, table: BlockTable, num_tokens: int) -> int:
        """Give back what lies behind ``num_tokens``; returns how many tokens are kept.

        Fewer are kept where the last block would be written again but is known or shared: it is given back whole.
        """
        while len(table.ids) > self.num_blocks_for(num_tokens):
            self._give_back(table.pop())
        if num_tokens % self.block_size and table.ids:
            last = table.ids[-1]
            if last in self._digest_of or self._refs[last] > 1:
                self._give_back(table.pop())
                return len(table.ids) * self.block_size
        return num_tokens

    def release(self, table: BlockTable) -> None:
        """Give back all blocks and the home of a sequence."""
        while table.ids:  # last first, so that the beginnings of cached prefixes live longest
            self._give_back(table.pop())
        self._move_home(table, range(0))

    def check_integrity(self, tables: Iterable[BlockTable]) -> None:
        """Raise AssertionError unless the pool's books agree with the ``tables`` of all living sequences."""
        refs = np.zeros(self.num_blocks, dtype=np.int32)
        homes = np.zeros(self.num_blocks, dtype=np.int32)
        for table in tables:
            assert [b for first, n in table.runs for b in range(first, first + n)] == table.ids, "runs differ from ids"
            assert len(set(table.ids)) == len(table.ids), "a block stands twice in one table"
            np.add.at(refs, table.ids, 1)
            homes[table.home.start : table.home.stop] += 1
        assert (refs == self._refs).all(), "reference counts differ from the tables"
        assert (homes == self._homes).all(), "homes differ from the tables"
        assert self._num_free == int((refs == 0).sum()), "number of free blocks is off"
        assert {self._block_of[d]: d for d in self._block_of} == self._digest_of, "contents are not one to one"
        assert set(self._cached) == {b for b in self._digest_of if refs[b] == 0}, "cached blocks are not the free known"

    def _take(self, block: int) -> None:
        if block in self._cached:
            self._cached.pop(block)
            del self._block_of[self._digest_of.pop(block)]
        self._refs[block] = 1
        self._num_free -= 1

    def _give_back(self, block: int) -> None:
        self._refs[block] -= 1
        if self._refs[block] == 0:
            self._num_free += 1
            if block in self._digest_of:
                self._cached[block] = None

    def _begin_run(self, table: BlockTable, length: int) -> int:
        """Choose where a sequence goes on: room for ``length`` neighbours, unknown blocks before known ones."""
        free = self._refs == 0
        away = free & (self._homes == 0)
        empty = away.copy()
        empty[list(self._cached)] = False
        start = _first_run(empty, length)
        if start is None:
            start = _first_run(away, length)
        if start is None and away.any():
            start = _longest_run(away)[0]
        if start is None:  # all that is free is somebody's home: settle in the middle of the largest
            first, count = _longest_run(free)
            start, length = first + count // 2, 1
        self._move_home(table, range(start, min(start + length, self.num_blocks)))
        return start

    def _move_home(self, table: BlockTable, home: range) -> None:
        self._homes[table.home.start : table.home.stop] -= 1
        self._homes[home.start : home.stop] += 1
        table.home = home


def _runs(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Starts and lengths of the runs of True in ``mask``."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).view(np.int8)))
    return edges[::2], edges[1::2] - edges[::2]


def _first_run(mask: npt.NDArray[np.bool_], length: int) -> int | None:
    starts, lengths = _runs(mask)
    fits = np.flatnonzero(lengths >= length)
    return int(starts[fits[0]]) if len(fits) else None


def _longest_run(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    starts, lengths = _runs(mask)
    longest = lengths.argmax()
    return int(starts[longest]), int(lengths[longest])
