"""Vectorized forms of the common processors and warpers: one call over a batch whose rows differ in their parameters.

Each function computes, row by row, what the class of transformers that it names computes, in float32. Scores are
changed in place: the caller owns them. No row's result depends on its neighbours.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

_MINUS_INF = float("-inf")
_DOUBT = 1e-5  # of a sum of probabilities in float32
_MAX_SHORT = 256  # top-p looks at so many tokens before it sorts a row


def scale_repeated(scores: Tensor, prefixes: Mapping[int, tuple[Sequence[int], float]]) -> None:
    """``RepetitionPenaltyLogitsProcessor``: ``prefixes`` maps a row to the ids before its position and its penalty."""
    entries = {row: (ids, [penalty] * len(ids)) for row, (ids, penalty) in prefixes.items()}
    rows, ids, penalty = _entries(entries, scores)
    values = scores[rows, ids]
    # An id that occurs twice is read before it is written, so both occurrences write the same value.
    scores[rows, ids] = torch.where(values < 0, values * penalty, values / penalty)


def penalize_emitted(scores: Tensor, emitted: Mapping[int, tuple[Sequence[int], float, float]]) -> None:
    """``PresenceFrequencyPenalty``: ``emitted`` maps a row to its emitted ids, presence and frequency penalty."""
    counts = {row: Counter(ids) for row, (ids, _, _) in emitted.items()}
    rows, ids, count = _entries({row: (list(c), list(c.values())) for row, c in counts.items()}, scores)
    penalties = [emitted.get(row, ((), 0.0, 0.0))[1:] for row in range(scores.shape[0])]
    presence, frequency = torch.tensor(penalties, dtype=scores.dtype, device=scores.device)[rows].unbind(dim=-1)
    scores[rows, ids] -= presence + frequency * count


def add_to_tokens(scores: Tensor, amounts: Mapping[int, Mapping[int, float]]) -> None:
    """Add to single logits: ``amounts`` maps a row to token ids and what is added to each."""
    rows, ids, values = _entries({row: (list(x), list(x.values())) for row, x in amounts.items()}, scores)
    scores[rows, ids] += values


def ban_tokens(scores: Tensor, banned: Mapping[int, Sequence[int]]) -> None:
    """Rule tokens out, as ``MinLengthLogitsProcessor`` does with eos: ``banned`` maps a row to token ids."""
    rows, ids, _ = _entries({row: (ids, [0.0] * len(ids)) for row, ids in banned.items()}, scores)
    scores[rows, ids] = _MINUS_INF


def divide_by_temperature(scores: Tensor, temperatures: Mapping[int, float]) -> None:
    """``TemperatureLogitsWarper``: ``temperatures`` maps a row to its temperature."""
    _on_rows(scores, temperatures, lambda part, temperature: part.div_(temperature.to(part.dtype)))


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
    # A GPU sorts quickly and would have to wait for the host to learn which rows are short.
    warp = _keep_top_p_short if scores.device.type == "cpu" else _keep_top_p_sorted
    _on_rows(scores, top_p, warp)


def _keep_top_p_sorted(part: Tensor, top_p: Tensor) -> Tensor:
    ascending, order = torch.sort(part, dim=-1, stable=True)
    is_dropped = ascending.softmax(dim=-1).cumsum(dim=-1) <= (1 - top_p).to(part.dtype)
    is_dropped[:, -1] = False
    return part.masked_fill_(is_dropped.scatter(-1, order, is_dropped), _MINUS_INF)


def _keep_top_p_short(part: Tensor, top_p: Tensor) -> Tensor:
    """Without sorting a row whose kept tokens are few and end between two different logits, which most do."""
    best, ids = torch.topk(part, min(_MAX_SHORT, part.shape[-1]), dim=-1)
    probabilities = part.softmax(dim=-1).gather(-1, ids)
    before = probabilities.cumsum(dim=-1) - probabilities
    is_kept = before < top_p.to(part.dtype)
    num_kept = is_kept.sum(dim=-1, keepdim=True).clamp_(min=1)
    last = best.gather(-1, num_kept - 1)
    is_short = (num_kept < best.shape[-1]) & (best.gather(-1, num_kept.clamp(max=best.shape[-1] - 1)) < last)
    # Summed from the other end a boundary may come out on the other side of it.
    is_short &= ((before - top_p).abs() > _DOUBT).all(dim=-1, keepdim=True)
    rest = (~is_short.squeeze(-1)).nonzero().squeeze(-1)
    if rest.numel() > 0:
        part[rest] = _keep_top_p_sorted(part[rest], top_p[rest])
        last[rest] = _MINUS_INF
    return part.masked_fill_(part < last, _MINUS_INF)


def keep_min_p(scores: Tensor, min_p: Mapping[int, float]) -> None:
    """``MinPLogitsWarper``: drops tokens less probable than min_p times the most probable one."""

    def warp(part: Tensor, column: Tensor) -> Tensor:
        probabilities = part.softmax(dim=-1)
        best, best_id = probabilities.max(dim=-1, keepdim=True)
        is_dropped = (probabilities < best * column.to(part.dtype)).scatter_(-1, best_id, False)
        return part.masked_fill_(is_dropped, _MINUS_INF)

    _on_rows(scores, min_p, warp)


def _on_rows(scores: Tensor, values: Mapping[int, float], warp: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Apply ``warp(part, column)`` to the rows that ``values`` names; column (rows, 1) float64 holds their values."""
    if not values:
        return
    column = torch.tensor(list(values.values()), dtype=torch.float64, device=scores.device).unsqueeze(-1)
    if len(values) == scores.shape[0] and list(values) == list(range(len(values))):
        warp(scores, column)
        return
    rows = torch.tensor(list(values), dtype=torch.int64, device=scores.device)
    scores[rows] = warp(scores[rows], column)


def _entries(
    by_row: Mapping[int, tuple[Sequence[int], Sequence[float]]], scores: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Row, token id and value, (n,) each, of every entry of ``by_row``: a row's token ids and a value for each.

    Ids that the vocabulary lacks are left out: a draft may know fewer tokens than the target whose ids it is told.
    """
    rows = torch.tensor(list(by_row)).repeat_interleave(torch.tensor([len(ids) for ids, _ in by_row.values()]))
    ids = torch.tensor([token for ids, _ in by_row.values() for token in ids], dtype=torch.int64)
    values = torch.tensor([value for _, values in by_row.values() for value in values], dtype=scores.dtype)
    is_known = ids < scores.shape[-1]  # selected on the host: a GPU would have to report how many there are
    rows, ids, values = (x[is_known].to(scores.device, non_blocking=True) for x in (rows, ids, values))
    return rows, ids, values
