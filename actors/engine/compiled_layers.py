"""Decoder layers compiled by torch, so that the small operations between the matrix products are a few kernels.

One layer's code serves all layers of its kind and any number of tokens. What is compiled must not know a layer's index,
so attention counts its calls (:class:`actors.engine.kernel_attention.KernelAttention`). transformers' own ``generate``
on the same model does know it, and would be compiled anew for each layer, so layers are compiled ones only while the
engine computes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from actors.engine.blueprint import decoder_layers


class CompiledLayers:
    """The decoder layers of a model, which are compiled when they are first called :meth:`in_use`.

    Args:
        model: whose layers they are.
        backend: of ``torch.compile``.
    """

    def __init__(self, model: Any, backend: str | Callable[..., Any] = "inductor") -> None:
        self._compiled = []
        for name in decoder_layers(model).values():
            layer = model.get_submodule(name)
            layer.compile(dynamic=True, backend=backend)
            self._compiled.append((layer, layer._compiled_call_impl))
            layer._compiled_call_impl = None

    def __len__(self) -> int:
        return len(self._compiled)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the layers be the compiled ones inside the block."""
        for layer, compiled in self._compiled:
            layer._compiled_call_impl = compiled
        try:
            yield
        finally:
            for layer, _ in self._compiled:
                layer._compiled_call_impl = None
