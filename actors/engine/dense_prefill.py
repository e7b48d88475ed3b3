"""Large prefills through 4-bit layers on a CPU: unpack a layer's weights once a forward, then one dense product.

bitsandbytes' packed CPU kernel unpacks weights anew for every few rows. That is best for the few rows of decoding, but
for the thousands of a prefill a dense float32 product over weights unpacked once is faster (how much, LOG.md of the
benchmarks says). The packed kernel multiplies inputs and codes rounded to bfloat16, sums in float32 and scales the
sums; the dense product takes the same values and differs in the order of summation only.
"""

from typing import Any

import torch
import torch.nn.functional as F

MIN_ROWS = 512  # below it, unpacking costs more than the faster product saves
CHUNK_ROWS = 1024  # float32 temporaries small enough for the allocator to reuse instead of mapping fresh pages
_TILE = 32  # output features that one packed tile holds: 16 in the low nibbles, 16 in the high ones
_HALF = _TILE // 2


class DensePrefillLinear(torch.nn.Module):
    """A ``bitsandbytes.nn.Linear4bit`` whose large inputs take the dense way.

    Args:
        linear: the layer; small inputs go through its own forward, which also packs its weights at first use.
    """

    def __init__(self, linear: torch.nn.Module) -> None:
        super().__init__()
        self.linear: Any = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (..., in_features) to (..., out_features), in the dtype of ``x``."""
        state = self.linear.weight.quant_state
        if x.numel() < MIN_ROWS * x.shape[-1] or not getattr(state, "packing_format_for_cpu", False):
            packed: torch.Tensor = self.linear(x)
            return packed
        weight = unpack(self.linear.weight.data, state)
        bias = None if self.linear.bias is None else self.linear.bias.float()
        rows = x.reshape(-1, x.shape[-1])
        out = x.new_empty(rows.shape[0], weight.shape[0])
        for start in range(0, rows.shape[0], CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            out[part] = F.linear(rows[part].to(torch.bfloat16).float(), weight, bias)
        return out.view(*x.shape[:-1], -1)


def unpack(packed: torch.Tensor, state: Any) -> torch.Tensor:
    """Weights (out_features, in_features) in float32 of a layer in bitsandbytes' packed CPU layout.

    The layout: tile t holds, for each pair p of input features, 32 bytes; byte (b, i) has the code of output feature
    32 t + b, input feature 2 p + i in its low nibble and that of output feature 32 t + 16 + b in its high one. Scales
    (in_features / blocksize, out_features) are stored transposed.
    """
    num_out, num_in = state.shape
    codes = packed.view(num_out // _TILE, num_in // 2, _HALF, 2).transpose(1, 2).reshape(-1, _HALF, num_in)
    weight = torch.empty(num_out // _TILE, 2, _HALF, num_in)
    table = state.code.to(torch.bfloat16).float()  # as the packed kernel has them
    weight[:, 0] = table[(codes & 15).int()]
    weight[:, 1] = table[(codes >> 4).int()]
    scaled = weight.view(num_out, num_in // state.blocksize, state.blocksize)
    scaled *= state.absmax.float().t()[:, :, None]
    return scaled.view(num_out, num_in)


def use_dense_prefill(model: torch.nn.Module) -> int:
    """Wrap the 4-bit layers of a model that run on a CPU; returns how many there are."""
    names = [
        name
        for name, module in model.named_modules()
        if type(module).__name__ == "Linear4bit"
        and module.weight.device.type == "cpu"
        and not getattr(getattr(module, "_hf_hook", None), "offload", False)
    ]
    for name in names:
        model.set_submodule(name, DensePrefillLinear(model.get_submodule(name)))
    return len(names)
