"""Distances between a target's and a draft's next-token distributions; all take logits of shape (..., vocab)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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


def draft_loss(target: Tensor, draft: Tensor, sharpness: float, temperature: float = 1.0) -> Tensor:
    """Return the loss of a draft: divergence at first, disagreement in the end.

    Disagreement is what counts, but gives little gradient where the two are far apart. It is the chance of different
    choices under shared noise, at every sixteenth position since it costs as much as a layer, and its cheap relative
    at all of them: total variation.

    Args:
        target: Logits, (sequences, window, vocab).
        draft: Logits, same shape.
        sharpness: Weight of the disagreement in [0, 1].
        temperature: Of the total variation; a low one stands for greedy choices.
    """
    loss = target.new_zeros(())
    if sharpness < 1:
        # Cross entropy with the target's probabilities: the divergence but for a constant, and twice as fast.
        probabilities = target.flatten(0, 1).softmax(-1)
        loss = (1 - sharpness) * F.cross_entropy(draft.flatten(0, 1), probabilities)
    if sharpness > 0:
        offset = int(torch.randint(16, ()))
        apart = 1 - coupled_agreement(target[:, offset::16], draft[:, offset::16], candidates=8).mean()
        loss = loss + sharpness * (apart + 2 * total_variation(target / temperature, draft / temperature))
    return loss
