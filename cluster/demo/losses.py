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


def coupled_agreement(target: Tensor, draft: Tensor, candidates: int = 12) -> Tensor:
    """Estimate the chance that target and draft choose the same token under the same Gumbel noise.

    Both choose v when v wins both races, which has probability 1 / sum_u max(p_u / p_v, q_u / q_v): the noise makes
    the races exponential clocks, and the minimum of the others' later clocks has the sum of the larger rates. In terms
    of the target this is p_v / (1 + e_v), with e_v = sum_u relu(q_u p_v / q_v - p_u). The sum over v is taken exactly
    for the target's most likely tokens and estimated, without bias, from as many drawn from the rest.

    Args:
        target: Logits, (..., vocab).
        draft: Logits, same shape.
        candidates: How many of the likely tokens, and how many of the rest, are looked at.

    Returns:
        The chance, shape (...).
    """
    p, q = target.log_softmax(-1), draft.log_softmax(-1)  # (..., vocab)
    likely = p.topk(min(candidates, p.size(-1) // 2), dim=-1)  # (..., c)
    rest = p.exp().scatter(-1, likely.indices, 0.0)  # (..., vocab)
    drawn = rest.flatten(0, -2).clamp_min(1e-30).multinomial(likely.indices.size(-1), replacement=True)
    share = rest.sum(-1, keepdim=True) / drawn.size(-1)  # (..., 1): what one drawn token stands for
    chosen = torch.cat([likely.indices, drawn.view_as(likely.indices)], dim=-1)  # (..., 2c)
    weight = torch.cat([likely.values.exp(), share.expand_as(likely.values)], dim=-1)  # (..., 2c)
    ratio = (p.gather(-1, chosen) - q.gather(-1, chosen)).clamp_max(30).exp()[..., None]  # (..., 2c, 1)
    excess = (q.exp()[..., None, :] * ratio - p.exp()[..., None, :]).relu().sum(-1)  # (..., 2c)
    return (weight / (1 + excess)).sum(-1)


def draft_loss(target: Tensor, draft: Tensor, sharpness: float) -> Tensor:
    """Return the loss of a draft: divergence at first, disagreement in the end.

    Disagreement is what counts, but gives little gradient where the two are far apart. It is the chance of different
    choices under shared noise, at every eighth position since it costs as much as a layer, and two cheap relatives of
    it at all of them: the total variation at temperature 1, and at a low one, which stands for greedy choices.

    Args:
        target: Logits, (sequences, window, vocab).
        draft: Logits, same shape.
        sharpness: Weight of the disagreement in [0, 1].
    """
    loss = (1 - sharpness) * forward_kl(target, draft) if sharpness < 1 else torch.zeros(())
    if sharpness > 0:
        offset = int(torch.randint(8, ()))
        apart = 1 - coupled_agreement(target[:, offset::8], draft[:, offset::8]).mean()
        apart = apart + total_variation(target, draft) + total_variation(target / 0.4, draft / 0.4)
        loss = loss + sharpness * apart
    return loss
