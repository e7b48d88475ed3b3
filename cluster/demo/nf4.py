"""Fake quantization to NF4, so that training sees the weights that will be loaded.

NF4 (Dettmers et al. 2023, "QLoRA") stores a weight as one of 16 levels times the largest magnitude of its block of
64. The levels are those of bitsandbytes, taken from it at run time. Gradients pass straight through the rounding
(Bengio et al. 2013): they are computed at the rounded weights and applied to the exact ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

BLOCK = 64


@cache
def nf4_levels() -> Tensor:
    """Return the 16 levels, ascending from -1 to 1, float32 of shape (16,)."""
    from bitsandbytes.functional import get_4bit_type

    levels: Tensor = get_4bit_type("nf4", device="cpu")
    return levels.float().sort().values


def fake_nf4(weight: Tensor) -> Tensor:
    """Round a weight to what NF4 can hold.

    Args:
        weight: Any shape whose number of elements is a multiple of 64.

    Returns:
        The rounded weight, same shape and dtype.
    """
    levels = nf4_levels()
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
    """Within the block, the model's linear weights are rounded to NF4; afterwards they are exact again."""
    parameters = quantized_parameters(model) if enabled else []
    exact = [parameter.data for parameter in parameters]
    for parameter in parameters:
        parameter.data = fake_nf4(parameter.data)
    try:
        yield
    finally:
        for parameter, data in zip(parameters, exact, strict=True):
            parameter.data = data
