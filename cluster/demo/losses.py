"""Distances between a target's and a draft's next-token distributions; all take logits of shape (..., vocab)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def forward_kl(target: Tensor, draft: Tensor) -> Tensor:
    """Return the mean Kullback-Leibler divergence of the draft from the target, in nats."""
    p, q = target.flatten(0, -2).log_softmax(-1), draft.flatten(0, -2).log_softmax(-1)
    return F.kl_div(q, p, reduction="batchmean", log_target=True)


def total_variation(target: Tensor, draft: Tensor) -> Tensor:
    """Return the mean total variation distance, in [0, 1]."""
    return (target.softmax(-1) - draft.softmax(-1)).abs().sum(-1).mean() / 2


def coupled_agreement(target: Tensor, draft: Tensor, candidates: int = 32) -> Tensor:
    """Return the chance that target and draft choose the same token under the same Gumbel noise.

    Both choose v when v wins both races, which has probability 1 / sum_u max(p_u / p_v, q_u / q_v): the noise makes
    the races exponential clocks, and the minimum of the others' later clocks has the sum of the larger rates.
    Summed over v; only the target's most likely tokens are counted as v, the rest adds next to nothing.

    Args:
        target: Logits, (..., vocab).
        draft: Logits, same shape.
        candidates: How many values of v are counted.

    Returns:
        A lower bound of the chance, shape (...).
    """
    p, q = target.log_softmax(-1), draft.log_softmax(-1)  # (..., vocab)
    top = p.topk(min(candidates, p.size(-1)), dim=-1).indices  # (..., c)
    p_v, q_v = p.gather(-1, top), q.gather(-1, top)  # (..., c)
    # max(p_u / p_v, q_u / q_v) = p_u / p_v + relu(q_u / q_v - p_u / p_v); the first part sums to 1 / p_v.
    shift = (p_v - q_v).clamp_max(30).exp()[..., None]  # (..., c, 1)
    excess = (q.exp()[..., None, :] * shift - p.exp()[..., None, :]).relu().sum(-1)  # (..., c), in units of 1 / p_v
    return (p_v.exp() / (1 + excess)).sum(-1)


def draft_loss(target: Tensor, draft: Tensor, sharpness: float) -> Tensor:
    """Return the loss of a draft: divergence at first, disagreement under shared noise in the end.

    Args:
        target: Logits, (sequences, window, vocab).
        draft: Logits, same shape.
        sharpness: Weight of the disagreement in [0, 1]. It is what counts, but gives little gradient where the two
            are far apart, and is computed at every fourth position since it costs as much as a layer.
    """
    loss = (1 - sharpness) * forward_kl(target, draft)
    if sharpness > 0:
        offset = int(torch.randint(4, ()))
        agreement = coupled_agreement(target[:, offset::4], draft[:, offset::4])
        loss = loss + sharpness * (-agreement.clamp_min(1e-6).log().mean() + total_variation(target, draft))
    return loss
