"""The output layer of a draft in 4 bit.

transformers leaves a model's output layer as it is, for the sake of its tokens. In a small model it is most of what a
step reads, and a draft's tokens are only proposals.
"""

from typing import Any

import torch

from actors.engine.output_layer import plain_output_layer
from actors.engine.quantization import fits_cpu_kernel

MIN_NUM_WEIGHTS = 1 << 22  # below it, reading the layer takes no time worth the rounding


def quantize_head(model: Any, kind: str, *, double: bool) -> bool:
    """Put a quantized copy in the place of a model's output layer; an embedding that shares its weights keeps them.

    Args:
        model: on its devices.
        kind: ``nf4`` or ``fp4``.
        double: quantize the quantization constants too.

    Returns:
        Whether it was done: not for a small layer, one with a bias, one that is offloaded, or one whose shape
        bitsandbytes cannot take on a CPU.
    """
    found = plain_output_layer(model)
    if found is None:
        return False
    name, head = found
    is_fit = head.weight.device.type != "cpu" or fits_cpu_kernel(head.out_features, head.in_features)
    if head.weight.numel() < MIN_NUM_WEIGHTS or not head.weight.is_floating_point() or not is_fit:
        return False
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

    layer = Linear4bit(
        head.in_features,
        head.out_features,
        bias=False,
        compute_dtype=head.weight.dtype,
        compress_statistics=double,
        quant_type=kind,
        device="meta",
    )
    weight = head.weight.detach().to("cpu", torch.float32 if head.weight.dtype == torch.float32 else torch.bfloat16)
    layer.weight = Params4bit(
        weight.clone(), requires_grad=False, compress_statistics=double, quant_type=kind, module=layer
    )
    model.set_submodule(name, layer.to(head.weight.device).eval())
    return True
