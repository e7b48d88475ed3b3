"""Fake quantization to NF4, so that training sees the weights that will be loaded.

NF4 (Dettmers et al. 2023, "QLoRA") stores a weight as one of 16 levels times the largest magnitude of its block of
64. The levels are written out here, so that training needs no bitsandbytes; a test holds them to what it stores.
Gradients pass straight through the rounding (Bengio et al. 2013): they are computed at the rounded weights and applied
to the exact ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

BLOCK = 64


# Quantiles of the normal distribution, seven below nothing and eight above it, each side divided by its largest.
_BELOW = (-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.091050036)
_ABOVE = (0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0)


@cache
def nf4_levels(device: torch.device) -> Tensor:
    """Return the 16 levels, ascending from -1 to 1, float32 of shape (16,)."""
    return torch.tensor((*_BELOW, 0.0, *_ABOVE), device=device)


def fake_nf4(weight: Tensor) -> Tensor:
    """Round a weight to what NF4 can hold.

    Args:
        weight: Any shape whose number of elements is a multiple of 64.

    Returns:
        The rounded weight, same shape and dtype.
    """
    levels = nf4_levels(weight.device)
    blocks = weight.detach().float().reshape(-1, BLOCK)  # (blocks, 64)
    scale = blocks.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)  # (blocks, 1)
    borders = (levels[1:] + levels[:-1]) / 2  # (15,)
    rounded = levels[torch.bucketize(blocks / scale, borders)] * scale  # (blocks, 64)
    return rounded.reshape(weight.shape).to(weight.dtype)


def quantized_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights that bitsandbytes would quantize: linear layers, without the output head."""
    return [
        parameter
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("lm_head")
        for parameter in module.parameters()
    ]


@contextmanager
def rounded_weights(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Within the block, the model's linear weights are rounded to NF4; afterwards they are exact again.

    They are rounded in one piece, which on a GPU takes a dozen launches in place of a dozen for each weight. No block
    reaches over two weights, as each has a multiple of 64 elements.
    """
    parameters = quantized_parameters(model) if enabled else []
    exact = [parameter.data for parameter in parameters]
    if parameters:
        pieces = fake_nf4(torch.cat([data.flatten() for data in exact])).split([data.numel() for data in exact])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.data = piece.view_as(parameter)
    try:
        yield
    finally:
        for parameter, data in zip(parameters, exact, strict=True):
            parameter.data = data
