"""Vectorized forms of the common processors and warpers: one call over a batch whose rows differ in their parameters.

Each function computes, row by row, what the class of transformers that it names computes, in float32. Scores are
changed in place: the caller owns them. No row's result depends on its neighbours.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

_MINUS_INF = float("-inf")


def scale_repeated(scores: Tensor, prefixes: Mapping[int, tuple[Sequence[int], float]]) -> None:
    """``RepetitionPenaltyLogitsProcessor``: ``prefixes`` maps a row to the ids before its position and its penalty."""
    num_tokens = scores.shape[-1]
    known = {row: [token for token in ids if token < num_tokens] for row, (ids, _) in prefixes.items()}
    lengths = torch.tensor([len(ids) for ids in known.values()], device=scores.device)
    rows = torch.tensor(list(known), device=scores.device).repeat_interleave(lengths)
    penalty = torch.tensor([penalty for _, penalty in prefixes.values()], device=scores.device)
    penalty = penalty.to(scores.dtype).repeat_interleave(lengths)
    ids = torch.tensor(list(chain.from_iterable(known.values())), dtype=torch.int64, device=scores.device)
    values = scores[rows, ids]
    # An id that occurs twice is read before it is written, so both occurrences write the same value.
    scores[rows, ids] = torch.where(values < 0, values * penalty, values / penalty)


def add_to_tokens(scores: Tensor, amounts: Mapping[int, Mapping[int, float]]) -> None:
    """Add to single logits: ``amounts`` maps a row to token ids and what is added to each."""
    rows, ids, values = _pairs(amounts, scores)
    scores[rows, ids] += values


def ban_tokens(scores: Tensor, banned: Mapping[int, Sequence[int]]) -> None:
    """Rule tokens out, as ``MinLengthLogitsProcessor`` does with eos: ``banned`` maps a row to token ids."""
    rows, ids, _ = _pairs({row: dict.fromkeys(ids, 0.0) for row, ids in banned.items()}, scores)
    scores[rows, ids] = _MINUS_INF


def divide_by_temperature(scores: Tensor, temperatures: Mapping[int, float]) -> None:
    """``TemperatureLogitsWarper``: ``temperatures`` maps a row to its temperature."""
    _on_rows(scores, temperatures, lambda part, temperature: part.div_(temperature))


def keep_top_k(scores: Tensor, top_k: Mapping[int, int]) -> None:
    """``TopKLogitsWarper``: ties with the k-th best stay."""

    def warp(part: Tensor, column: Tensor) -> Tensor:
        k = column.to(torch.int64).clamp_(max=part.shape[-1])
        best = torch.topk(part, min(max(top_k.values()), part.shape[-1]), dim=-1).values
        return part.masked_fill_(part < best.gather(-1, k - 1), _MINUS_INF)

    _on_rows(scores, top_k, warp)


def keep_top_p(scores: Tensor, top_p: Mapping[int, float]) -> None:
    """``TopPLogitsWarper``: drops the least probable tokens whose probabilities together are at most 1 - top_p.

    Of equal logits at the boundary the lower ids are dropped; transformers leaves that to an unstable sort, whose order
    may depend on the shape of the batch.
    """

    def warp(part: Tensor, column: Tensor) -> Tensor:
        ascending, order = torch.sort(part, dim=-1, stable=True)
        is_dropped = ascending.softmax(dim=-1).cumsum(dim=-1) <= column
        is_dropped[:, -1] = False
        return part.masked_fill_(is_dropped.scatter(-1, order, is_dropped), _MINUS_INF)

    _on_rows(scores, {row: 1 - p for row, p in top_p.items()}, warp)


def keep_min_p(scores: Tensor, min_p: Mapping[int, float]) -> None:
    """``MinPLogitsWarper``: drops tokens less probable than min_p times the most probable one."""

    def warp(part: Tensor, column: Tensor) -> Tensor:
        probabilities = part.softmax(dim=-1)
        best, best_id = probabilities.max(dim=-1, keepdim=True)
        is_dropped = (probabilities < best * column).scatter_(-1, best_id, False)
        return part.masked_fill_(is_dropped, _MINUS_INF)

    _on_rows(scores, min_p, warp)


def _on_rows(scores: Tensor, values: Mapping[int, float], warp: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Apply ``warp(part, column)`` to the rows that ``values`` names; column (rows, 1) float32 holds their values."""
    if not values:
        return
    column = torch.tensor(list(values.values()), dtype=torch.float32, device=scores.device).unsqueeze(-1)
    if len(values) == scores.shape[0] and list(values) == list(range(len(values))):
        warp(scores, column)
        return
    rows = torch.tensor(list(values), dtype=torch.int64, device=scores.device)
    scores[rows] = warp(scores[rows], column)


def _pairs(amounts: Mapping[int, Mapping[int, float]], scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, token and amount of every entry, (n,) each. Ids that the vocabulary lacks are left out."""
    num_tokens = scores.shape[-1]
    entries = [(row, token, amount) for row, of_row in amounts.items() for token, amount in of_row.items()]
    entries = [entry for entry in entries if entry[1] < num_tokens]
    rows = torch.tensor([entry[0] for entry in entries], dtype=torch.int64, device=scores.device)
    ids = torch.tensor([entry[1] for entry in entries], dtype=torch.int64, device=scores.device)
    values = torch.tensor([entry[2] for entry in entries], dtype=scores.dtype, device=scores.device)
    return rows, ids, values
