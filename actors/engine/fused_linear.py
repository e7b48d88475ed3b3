"""4-bit layers on a GPU, called as the one operation they are.

``bitsandbytes.nn.Linear4bit`` looks after states, dtypes and layouts in each call. Here that is done once, which leaves
an operation that can be compiled together with its neighbours.
"""

import logging
from typing import Any

import torch

from actors.engine.four_bit import BLOCKSIZE, CHUNK, can_compile, code_pairs, four_bit_product

logger = logging.getLogger(__name__)

_NESTED_BLOCKSIZE = 256  # scales that share a scale, where they are quantized themselves
_TOLERANCE = 0.02  # of the norm, between our product and bitsandbytes'; another layout would be off by all of it


class FusedLinear(torch.nn.Module):
    """A ``bitsandbytes.nn.Linear4bit`` on a GPU in half precision; shares its weights.

    Args:
        linear: the layer, quantized.
    """

    def __init__(self, linear: Any) -> None:
        super().__init__()
        state = linear.weight.quant_state
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.compute_dtype = compute_dtype(linear)
        self.weight = linear.weight
        bias = linear.bias
        self.quant_type = state.quant_type
        is_nested = state.nested
        for name, value in (
            ("bias", None if bias is None else bias.detach().to(self.compute_dtype)),
            ("packed", linear.weight.data.view(-1, 1)),
            ("pairs", code_pairs(state.code, self.compute_dtype)),
            ("absmax", state.state2.absmax if is_nested else state.absmax),
            ("absmax_8bit", state.absmax if is_nested else None),
            ("absmax_code", state.state2.code if is_nested else None),
            ("absmax_offset", state.offset.to(torch.float32) if is_nested else None),
        ):
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (..., in_features) to (..., out_features), in the dtype of ``x``."""
        product = four_bit_product(
            x.to(self.compute_dtype),
            self.packed,
            self.out_features,
            self.quant_type,
            self.pairs,
            self.absmax,
            self.bias,
            self.absmax_8bit,
            self.absmax_code,
            self.absmax_offset,
        )
        result: torch.Tensor = product.to(x.dtype)
        return result


def compute_dtype(linear: Any) -> torch.dtype:
    """In what a ``Linear4bit`` multiplies."""
    dtype: torch.dtype = linear.compute_dtype or linear.weight.quant_state.dtype
    return dtype


def use_fused_linears(model: torch.nn.Module) -> int:
    """Replace the 4-bit layers of a model that run on a GPU; returns how many there are.

    The first of each shape is held against bitsandbytes' own product; none of that shape is replaced where they differ.
    """
    sound: dict[Any, bool] = {}
    count = 0
    for name, module in list(model.named_modules()):
        if type(module).__name__ != "Linear4bit" or not _is_known(module):
            continue
        state = module.weight.quant_state
        kind = (tuple(state.shape), state.quant_type, state.nested, compute_dtype(module), module.bias is not None)
        fused = FusedLinear(module)
        if kind not in sound:
            sound[kind] = _agrees(fused, module)
        if sound[kind]:
            model.set_submodule(name, fused)
            count += 1
    return count


def _is_known(linear: Any) -> bool:
    """Whether a layer is one that the kernel multiplies by, and nothing else is hooked to it."""
    state = getattr(linear.weight, "quant_state", None)
    device = linear.weight.device
    return (
        state is not None
        and device.type == "cuda"
        and tuple(state.shape) == (linear.out_features, linear.in_features)
        and linear.out_features % 16 == 0
        and linear.in_features % BLOCKSIZE == 0
        and state.blocksize == BLOCKSIZE
        and state.quant_type in ("nf4", "fp4")
        and compute_dtype(linear) in (torch.bfloat16, torch.float16)
        and (not state.nested or (state.state2.blocksize == _NESTED_BLOCKSIZE and linear.in_features % CHUNK == 0))
        and not hasattr(linear, "_hf_hook")
        and can_compile(device.index)
    )


def _agrees(fused: FusedLinear, linear: Any) -> bool:
    """Whether both give the same product but for rounding."""
    generator = torch.Generator().manual_seed(0)
    trial = torch.randn(3, linear.in_features, generator=generator).to(linear.weight.device, fused.compute_dtype)
    try:
        with torch.inference_mode():
            got, want = fused(trial).float(), linear(trial).float()
    except Exception as error:
        logger.warning("4-bit layers keep bitsandbytes' kernels: %s: %s", type(error).__name__, error)
        return False
    distance = float((got - want).norm() / want.norm().clamp_min(1e-9))
    if not distance <= _TOLERANCE:
        logger.warning("4-bit layers keep bitsandbytes' kernels: products differ by %.2g of their norm", distance)
        return False
    return True
