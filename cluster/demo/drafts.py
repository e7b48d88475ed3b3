"""Shapes of drafts for the embedded target, and how a draft begins."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from cluster.demo.pretrain import ModelShape

DRAFT_SHAPES = {
    "128x1": ModelShape(hidden=128, layers=1, intermediate=512, heads=2, kv_heads=1),
    "128x2": ModelShape(hidden=128, layers=2, intermediate=256, heads=2, kv_heads=1),
    "128x3": ModelShape(hidden=128, layers=3, intermediate=128, heads=2, kv_heads=1),
    "192x1": ModelShape(hidden=192, layers=1, intermediate=128, heads=3, kv_heads=1),
}
"""By width and depth: about a tenth of the target each, most of it embeddings, which are also the output layer.

Widths are multiples of 64, NF4's block and the size of a head."""

DRAFT_SHAPE = DRAFT_SHAPES["128x2"]
"""The shape of the shipped draft."""


def principal_directions(embeddings: Tensor, width: int) -> Tensor:
    """Return the orthonormal directions that hold most of some embeddings.

    The output layer takes inner products with embeddings, so they are not centred: in these coordinates logits are as
    close to the whole ones as ``width`` numbers a token allow (Eckart and Young 1936).

    Args:
        embeddings: (vocab, hidden).
        width: Number of directions, at most ``hidden``.

    Returns:
        Columns, most important first: (hidden, width), on the CPU.
    """
    exact = embeddings.detach().cpu().double()
    directions: Tensor = torch.linalg.eigh(exact.T @ exact).eigenvectors.flip(1)[:, :width]  # ascending before the flip
    return directions.to(embeddings.dtype)


def new_draft(target: LlamaForCausalLM, shape: ModelShape = DRAFT_SHAPE, seed: int = 0) -> LlamaForCausalLM:
    """Return an untrained draft on the target's device.

    It begins with the target's embeddings and last norm; a narrower one with the embeddings' principal directions. A
    wider one begins with noise.
    """
    torch.manual_seed(seed)
    draft = LlamaForCausalLM(shape.config())
    theirs = target.model.embed_tokens.weight.detach().cpu()
    with torch.no_grad():
        if shape.hidden == target.config.hidden_size:
            draft.model.embed_tokens.weight.copy_(theirs)
            draft.model.norm.weight.copy_(target.model.norm.weight)
        elif shape.hidden < target.config.hidden_size:
            draft.model.embed_tokens.weight.copy_(theirs @ principal_directions(theirs, shape.hidden))
    draft.to(target.device)  # type: ignore[arg-type]
    return draft
