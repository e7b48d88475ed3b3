"""Log-probabilities of emitted tokens and of the most probable ones.

They are those of the distribution that was sampled from: the log-softmax of the logits after all processors and warpers
(``scores`` of transformers' ``generate``, normalized). Tokens that were ruled out are not listed.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from actors.engine.request import TokenLogprobs


def token_logprobs(scores: Tensor, token_ids: list[int], num_top: Mapping[int, int]) -> dict[int, TokenLogprobs]:
    """Log-probabilities for the rows that ask.

    Args:
        scores: (rows, vocab) float32, processed logits.
        token_ids: the chosen token of every row.
        num_top: maps a row to the number of most probable tokens that it wants.

    Returns:
        An entry for every row of ``num_top``.
    """
    if not num_top:
        return {}
    rows = list(num_top)
    logprobs = scores[torch.tensor(rows, device=scores.device)].log_softmax(dim=-1)
    chosen = torch.tensor([[token_ids[row]] for row in rows], device=scores.device)
    emitted = logprobs.gather(-1, chosen).squeeze(-1).tolist()
    top = torch.topk(logprobs, min(max(num_top.values()), logprobs.shape[-1]), dim=-1)
    values, ids = top.values.tolist(), top.indices.tolist()
    return {
        row: TokenLogprobs(emitted[i], _finite(ids[i][: num_top[row]], values[i][: num_top[row]]))
        for i, row in enumerate(rows)
    }


def _finite(ids: list[int], values: list[float]) -> tuple[tuple[int, float], ...]:
    return tuple((token, value) for token, value in zip(ids, values, strict=True) if math.isfinite(value))
