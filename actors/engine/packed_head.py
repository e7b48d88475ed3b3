"""The output layer of a bfloat16 model on a CPU, its weights laid out once as oneDNN's product reads them.

A decoding step reads the whole output layer for a handful of rows, so it is the memory that takes time, and torch's own
product, which lays the weights out anew in each call, takes three times as long as reading them does.
"""

from typing import Any

import torch

from actors.engine.output_layer import plain_output_layer
from actors.engine.packed_linear import trial_rows

NUM_ROWS = 8  # a hint on the rows to come; the layout was the same for hints from 1 to 512


class PackedHead(torch.nn.Module):
    """A bias-free ``torch.nn.Linear`` in bfloat16 that computes from packed weights.

    Args:
        linear: the layer. Its own weights go, unless the input embedding shares them.
        is_shared: whether it does.
    """

    def __init__(self, linear: torch.nn.Linear, *, is_shared: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), NUM_ROWS)
        self._shared: Any = [linear.weight] if is_shared else []  # in a list: it is not this module's parameter

    @property
    def weight(self) -> torch.Tensor:
        """The weights (out_features, in_features) as a plain tensor, unpacked where only the packed ones are kept."""
        return self._shared[0] if self._shared else self._packed.to_dense()  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (..., in_features) to (..., out_features)."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return product


def use_packed_head(model: Any) -> bool:
    """Pack the output layer of a model where it can be; returns whether it was."""
    found = plain_output_layer(model)
    if found is None:
        return False
    name, head = found
    if (
        head.weight.device.type != "cpu"
        or head.weight.dtype is not torch.bfloat16
        or not torch.backends.mkldnn.is_available()
        or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        return False
    embeddings = model.get_input_embeddings()
    is_shared = getattr(embeddings, "weight", None) is head.weight
    with torch.inference_mode():
        packed = PackedHead(head, is_shared=is_shared)
        trial = trial_rows(head.in_features)
        want = head(trial)
        # One unit in the last place of bfloat16 is the order of summation; more would be another product.
        if not torch.allclose(packed(trial), want, rtol=2**-7, atol=2**-7 * float(want.abs().max())):
            return False
    model.set_submodule(name, packed)
    return True
