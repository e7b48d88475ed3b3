"""The tensors behind the blocks: keys and values of every layer, on the layer's own device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What one attention layer stores a token, as seen in a probe forward."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values of one token in this layer."""
        return self.num_kv_heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


class KVCache:
    """Keys (num_slots, num_kv_heads, key_dim) and values (num_slots, num_kv_heads, value_dim) of each layer.

    Slot ``b * block_size + i`` is token i of block b, so that neighbouring blocks are one view. The same memory seen as
    (num_blocks, block_size, num_kv_heads, head_dim) is what paged kernels take.
    """

    def __init__(self, layers: Mapping[int, LayerSpec], num_blocks: int, block_size: int) -> None:
        self.layers = dict(layers)
        self.order = tuple(layers)  # the layers' indices, as they come in a forward
        self.block_size = block_size
        num_slots = num_blocks * block_size
        # Untouched pages of a zeroed CPU tensor cost no memory, so a generous plan is free until it is used.
        self._keys = {
            index: torch.zeros(num_slots, spec.num_kv_heads, spec.key_dim, dtype=spec.dtype, device=spec.device)
            for index, spec in self.layers.items()
        }
        self._values = {
            index: torch.zeros(num_slots, spec.num_kv_heads, spec.value_dim, dtype=spec.dtype, device=spec.device)
            for index, spec in self.layers.items()
        }
        # The same tensors as attention reads them, (1, num_kv_heads, num_slots, dim): a run is then one narrow view.
        self._views = {
            index: (self._keys[index].transpose(0, 1)[None], self._values[index].transpose(0, 1)[None])
            for index in self.layers
        }

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in (*self._keys.values(), *self._values.values()))

    def tensors(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys (num_slots, num_kv_heads, key_dim) and values (num_slots, num_kv_heads, value_dim) of a layer."""
        return self._keys[layer], self._values[layer]

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store ``keys`` and ``values`` (num_tokens, num_kv_heads, dim) at ``slots`` (num_tokens,)."""
        self._keys[layer].index_copy_(0, slots, keys)
        self._values[layer].index_copy_(0, slots, values)

    def copy(self, blocks: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks, (from, to), in every layer. No block may be both."""
        offsets = torch.arange(self.block_size)
        slots = (torch.tensor(blocks).T[..., None] * self.block_size + offsets).flatten(1)  # (2, number of tokens)
        at = {device: slots.to(device) for device in {spec.device for spec in self.layers.values()}}
        for index, spec in self.layers.items():
            source, target = at[spec.device]
            for tensor in (self._keys[index], self._values[index]):
                tensor[target] = tensor[source]

    def read(self, layer: int, runs: tuple[tuple[int, int], ...], skip: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (1, num_kv_heads, num_tokens - skip, dim) of ``runs``, without the first ``skip`` tokens.

        ``runs`` are (first slot, number of slots), in order. One run is a view; several are copied together.
        """
        keys, values = self._views[layer]
        if len(runs) == 1:
            first, count = runs[0]
            return keys.narrow(2, first + skip, count - skip), values.narrow(2, first + skip, count - skip)
        return (
            torch.cat([keys.narrow(2, first, count) for first, count in runs], dim=2)[:, :, skip:],
            torch.cat([values.narrow(2, first, count) for first, count in runs], dim=2)[:, :, skip:],
        )
