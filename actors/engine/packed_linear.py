"""4-bit layers on a CPU: few rows go through the packed kernel, called directly; many through a dense product.

bitsandbytes' packed CPU kernel unpacks weights anew for every few rows. That is best for the rows of decoding, where
the way to the kernel (module, autograd function, two dispatches) takes as long as a third of its work, so it is called
at its address. For the rows of a prefill one dense float32 product over weights unpacked once is faster (how much,
LOG.md of the benchmarks says). The packed kernel multiplies inputs and codes rounded to bfloat16, sums in float32 and
scales the sums; the dense product takes the same values and differs in the order of summation only.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

MIN_DENSE_ROWS = 128  # below it, unpacking costs more than the faster product saves
CHUNK_ROWS = 1024  # float32 temporaries small enough for the allocator to reuse instead of mapping fresh pages
NUM_TRIAL_ROWS = 2  # of the product by which the direct call is held against the layer's own forward
_TILE = 32  # output features that one packed tile holds: 16 in the low nibbles, 16 in the high ones
_HALF = _TILE // 2

# void(M, N, K, inputs, weights, scales, outputs, blocksize, stride of inputs, stride of outputs)
_KERNEL_TYPE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 3)
Kernel = Callable[[torch.Tensor], torch.Tensor]


class PackedLinear(torch.nn.Module):
    """A ``bitsandbytes.nn.Linear4bit`` on a CPU, by the way that is fastest for the number of rows.

    Args:
        linear: the layer. One that bitsandbytes does not pack on this machine keeps its own forward.
    """

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.linear = linear
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._kernel: Kernel | None = None
        trial = trial_rows(linear.in_features)
        with torch.inference_mode():
            expected = linear(trial)  # this also packs the weights
            kernel = packed_kernel(linear)
            if kernel is not None and torch.equal(kernel(trial), expected):
                self._kernel = kernel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (..., in_features) to (..., out_features), in the dtype of ``x``."""
        if self._kernel is None or x.numel() < MIN_DENSE_ROWS * x.shape[-1]:
            multiply = self._kernel if self._kernel and x.dtype is torch.bfloat16 else self.linear
            # Where bitsandbytes has no packed kernel for a CPU, torch's product rounds otherwise for other strides.
            product: torch.Tensor = multiply(x.contiguous())
            return product
        weight = unpack(self.linear.weight.data, self.linear.weight.quant_state)
        bias = None if self.linear.bias is None else self.linear.bias.float()
        rows = x.reshape(-1, x.shape[-1])
        out = x.new_empty(rows.shape[0], weight.shape[0])
        for start in range(0, rows.shape[0], CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            out[part] = F.linear(rows[part].to(torch.bfloat16).float(), weight, bias)
        return out.view(*x.shape[:-1], -1)


def trial_rows(num_features: int) -> torch.Tensor:
    """A few rows (NUM_TRIAL_ROWS, num_features) by which two ways to a product are compared, always the same."""
    return torch.randn(NUM_TRIAL_ROWS, num_features, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


def packed_kernel(linear: Any) -> Kernel | None:
    """What multiplies (..., in_features) in bfloat16 by a packed layer; None where bitsandbytes has no such kernel."""
    from bitsandbytes.cextension import lib

    weight = linear.weight.data
    state = linear.weight.quant_state
    if not getattr(state, "packing_format_for_cpu", False):
        return None
    function = getattr(lib, f"gemv_4bit_inference_cpu_{state.quant_type}_bf16", None)
    if function is None:
        return None
    call = _KERNEL_TYPE(ctypes.cast(function, ctypes.c_void_p).value or 0)
    scales = state.absmax.to(torch.bfloat16).contiguous()
    num_out, num_in = state.shape
    weight_at, scales_at, blocksize = weight.data_ptr(), scales.data_ptr(), state.blocksize
    bias = None if linear.bias is None else linear.bias.to(torch.bfloat16)

    def multiply(x: torch.Tensor, _alive: object = (weight, scales)) -> torch.Tensor:
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], num_out)
        num_rows = x.numel() // num_in
        call(num_rows, num_out, num_in, x.data_ptr(), weight_at, scales_at, out.data_ptr(), blocksize, num_in, num_out)
        return out if bias is None else out.add_(bias)

    return multiply


def unpack(packed: torch.Tensor, state: Any) -> torch.Tensor:
    """Weights (out_features, in_features) in float32 of a layer in bitsandbytes' packed CPU layout.

    The layout: tile t holds, for each pair p of input features, 32 bytes; byte (b, i) has the code of output feature
    32 t + b, input feature 2 p + i in its low nibble and that of output feature 32 t + 16 + b in its high one. Scales
    (in_features / blocksize, out_features) are stored transposed.
    """
    num_out, num_in = state.shape
    tiles = packed.view(num_out // _TILE, num_in // 2, _HALF, 2)
    first, second = tiles[..., 0].transpose(1, 2), tiles[..., 1].transpose(1, 2)  # (T, 16, P): codes at 2 p, 2 p + 1
    # bitsandbytes' row layout, which its own kernel decodes: (T, 2, 16, P), the code at 2 p in the high nibble.
    rows = packed.new_empty(num_out // _TILE, 2, _HALF, num_in // 2)
    torch.bitwise_or(first << 4, second & 15, out=rows[:, 0])
    torch.bitwise_or(first & 240, second >> 4, out=rows[:, 1])
    num_blocks = num_in // state.blocksize
    ones = torch.ones(num_out * num_blocks)
    # With scales of one these are the codes as the packed kernel has them, rounded to bfloat16.
    codes = torch.ops.bitsandbytes.dequantize_4bit(
        rows.view(num_out, num_in // 2), ones, state.blocksize, state.quant_type, (num_out, num_in), torch.bfloat16
    )
    weight: torch.Tensor = codes.view(num_out, num_blocks, state.blocksize).float()
    weight *= state.absmax.float().t()[:, :, None]
    return weight.view(num_out, num_in)


def use_packed_linears(model: torch.nn.Module) -> int:
    """Wrap the 4-bit layers of a model that run on a CPU; returns how many there are."""
    names = [
        name
        for name, module in model.named_modules()
        if type(module).__name__ == "Linear4bit"
        and module.weight.device.type == "cpu"
        and not getattr(getattr(module, "_hf_hook", None), "offload", False)
    ]
    for name in names:
        model.set_submodule(name, PackedLinear(model.get_submodule(name)))
    return len(names)
