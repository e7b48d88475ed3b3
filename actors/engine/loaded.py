"""A model on its devices, ready for the engine."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """What loading yields.

    Attributes:
        model: the causal LM in eval mode, on the devices of its map, attention left at transformers' default.
        tokenizer: its tokenizer, or None where the model has none.
        generation_config: the model's defaults with the configuration's over them.
        num_blocks: KV blocks that the memory plan leaves room for.
        weight_bytes: bytes of weights as loaded.
        kv_bytes_per_token: bytes of KV cache for one token over all layers.
        layer_devices: device of each decoder layer's KV cache, by layer index; the first one's where a layer is absent.
        notes: what a person should know (a warning a line).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    generation_config: GenerationConfig
    num_blocks: int
    weight_bytes: int
    kv_bytes_per_token: int
    layer_devices: dict[int, torch.device] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        head = self.model.get_output_embeddings()
        return int(getattr(head, "out_features", None) or head.weight.shape[0])

    @property
    def config(self) -> Any:
        """The text model's configuration."""
        return self.model.config.get_text_config()
