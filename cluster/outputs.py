"""What ``generate`` returns: rows of emitted tokens as one padded tensor, and as transformers' output class."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.generation.utils import GenerateDecoderOnlyOutput

from actors.engine.errors import GenerationError
from actors.engine.request import Delta, FinishReason
from actors.journal import skip
from actors.request_stats import RequestStats, RequestTally


@dataclass
class ClusterGenerateOutput(GenerateDecoderOnlyOutput):
    """transformers' output, with the seed that the call had, and what drafting did for each row.

    ``seed`` is None for greedy search, which has no randomness, ``stats`` where transformers' own code ran the call.
    """

    seed: int | None = None
    stats: tuple[RequestStats, ...] | None = None


class EmittedRows:
    """The tokens that came so far, a list a row. Deltas may come twice and in any order across rows."""

    def __init__(self, num_rows: int) -> None:
        self.rows: list[list[int]] = [[] for _ in range(num_rows)]
        self.is_finished = [False] * num_rows
        self._tallies = [RequestTally() for _ in range(num_rows)]

    def stats(self) -> tuple[RequestStats, ...]:
        """What drafting did for each row so far."""
        return tuple(tally.stats() for tally in self._tallies)

    def add(self, index: int, delta: Delta) -> None:
        """Take in a delta of row ``index``. Raises GenerationError where the sequence failed or a token is missing."""
        check_delta(index, delta)
        row = self.rows[index]
        if delta.start > len(row):
            raise GenerationError(f"row {index}: tokens {len(row)} to {delta.start - 1} are missing")
        fresh = skip(delta, len(row) - delta.start)
        if fresh.token_ids or (fresh.finish_reason is not None and not self.is_finished[index]):
            self._tallies[index].add(fresh)
        row.extend(fresh.token_ids)
        self.is_finished[index] = self.is_finished[index] or delta.finish_reason is not None


def check_delta(index: int, delta: Delta) -> None:
    """Raises GenerationError where a row has failed."""
    if delta.finish_reason is FinishReason.ERROR:
        raise GenerationError(f"row {index}: {delta.error or 'generation failed'}")
    if delta.finish_reason is FinishReason.ABORT:
        raise GenerationError(f"row {index}: the request was taken back")


def pad_rows(input_ids: torch.Tensor, rows: Sequence[Sequence[int]], pad_token_id: int) -> torch.Tensor:
    """Prompts (rows, width) and emitted tokens behind them, padded to the longest: (rows, width + longest)."""
    longest = max(map(len, rows))
    new = input_ids.new_full((len(rows), longest), pad_token_id)
    for index, row in enumerate(rows):
        new[index, : len(row)] = torch.tensor(row, dtype=new.dtype, device=new.device)
    return torch.cat([input_ids, new], dim=1)
