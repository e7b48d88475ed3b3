"""What one forward computes, as plain data: some ids of some sequences, and where their keys and values go."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """One sequence's part of a ragged batch.

    Attributes:
        key: the sequence's key in the runner (its request id).
        token_ids: ids to compute, those of positions ``start`` to ``start + len(token_ids)``.
        start: ids before them, whose keys and values are in the cache.
        runs: (first block, number of blocks) of the sequence's cache, in order.
        num_logits: of how many of the last positions logits are wanted.
        group: name of the search, several beams of which stand side by side and compute one id each at the same
            position; empty otherwise.
    """

    key: str
    token_ids: Seq[int]
    start: int
    runs: tuple[tuple[int, int], ...]
    num_logits: int
    group: str = ""

    @property
    def end(self) -> int:
        """Number of ids whose keys and values are in the cache afterwards."""
        return self.start + len(self.token_ids)
