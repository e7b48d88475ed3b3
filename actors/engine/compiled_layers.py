"""Decoder layers compiled by torch, so that the small operations between the matrix products are a few kernels.

One layer's code serves all layers of its kind and any number of tokens. What is compiled must not know a layer's index,
so attention counts its calls (:class:`actors.engine.kernel_attention.KernelAttention`).
"""

from collections.abc import Callable
from typing import Any

import torch

from actors.engine.blueprint import decoder_layers


def compile_layers(model: Any, backend: str | Callable[..., Any] = "inductor") -> int:
    """Compile the decoder layers of a model at their next call, for ``torch.compile``'s backend; how many there are."""
    layers = [model.get_submodule(name) for name in decoder_layers(model).values()]
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    return len(layers)


def undo(model: Any) -> None:
    """Let the layers of a model run as they are again."""
    for name in decoder_layers(model).values():
        model.get_submodule(name)._compiled_call_impl = None
    torch.compiler.reset()
