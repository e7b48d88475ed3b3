"""Finding a model's output layer, for those who put another in its place."""

from typing import Any

from torch import nn


def plain_output_layer(model: Any) -> tuple[str, nn.Linear] | None:
    """A model's output layer and its name; None unless it is linear, without a bias, and not offloaded."""
    head = model.get_output_embeddings()
    name = next((name for name, module in model.named_modules() if module is head), None)
    if name is None or type(head) is not nn.Linear or head.bias is not None or hasattr(head, "_hf_hook"):
        return None
    return name, head
