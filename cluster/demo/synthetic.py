"""A pair of models with random weights for benchmarks: real sizes and a chosen acceptance rate, without downloads.

The target is a Llama whose layers after the first few write little into the residual stream, so the draft, which is
those first layers with the target's embeddings and head, mostly agrees with it. How little is the damping, and it
sets the acceptance rate.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig


@dataclass(frozen=True)
class SyntheticConfig:
    """What a synthetic pair is generated from.

    The default is a target of 200M parameters and a draft of one layer whose greedy acceptance in NF4 is about 0.8.

    Attributes:
        damping: Factor on what the target's layers beyond the draft's write; 0 makes the draft exact.
        attention_gain: Standard deviation of attention scores; large ones look at few positions, so that the text
            depends on its past and does not fall into a loop.
    """

    seed: int = 0
    hidden: int = 1024
    layers: int = 12
    intermediate: int = 2816
    heads: int = 16
    kv_heads: int = 8
    head_dim: int = 64
    vocab: int = 28672
    context: int = 4096
    draft_layers: int = 1
    damping: float = 0.025
    attention_gain: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.draft_layers <= self.layers:
            raise ValueError(f"draft_layers is {self.draft_layers}; it must lie in 1..{self.layers}")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} KV heads")
        if self.damping < 0 or self.attention_gain <= 0:
            raise ValueError(f"damping {self.damping} or attention_gain {self.attention_gain} is out of range")

    @classmethod
    def tiny(cls, seed: int = 0) -> SyntheticConfig:
        """Return a pair of under a million parameters, for tests."""
        return cls(
            seed, hidden=64, layers=3, intermediate=128, heads=4, kv_heads=2, head_dim=16, vocab=512, context=512
        )

    @property
    def key(self) -> str:
        """Name of the cache folder: one for each configuration."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.hidden}x{self.layers}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class SyntheticPair:
    """Folders of the two models."""

    target_path: Path
    draft_path: Path


def synthetic_pair(config: SyntheticConfig | None = None, cache_dir: str | Path | None = None) -> SyntheticPair:
    """Return the pair of a configuration, generating it when it is not there yet.

    Args:
        config: Default: 200M parameters.
        cache_dir: Where pairs are kept. Default: ``$SLIPSTREAM_CACHE`` or ``~/.cache/slipstream``, in ``synthetic/``.
            Any number of processes may ask at once.
    """
    config = config or SyntheticConfig()
    if cache_dir is None:
        cache_dir = Path(os.environ.get("SLIPSTREAM_CACHE", "~/.cache/slipstream")).expanduser() / "synthetic"
    folder = Path(cache_dir) / config.key
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "pair"
            _generate(config, made)
            try:
                made.rename(folder)
            except OSError:  # another process was quicker; its pair is the same
                if not folder.exists():
                    raise
    return SyntheticPair(folder / "target", folder / "draft")


def _generate(config: SyntheticConfig, folder: Path) -> None:
    weights = dict(_weights(config))
    drafted = tuple(f"model.layers.{layer}." for layer in range(config.draft_layers))
    draft = {n: w for n, w in weights.items() if not n.startswith("model.layers.") or n.startswith(drafted)}
    for name, layers, tensors in (("target", config.layers, weights), ("draft", config.draft_layers, draft)):
        path = folder / name
        path.mkdir(parents=True)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        _llama_config(config, layers).save_pretrained(path)
        GenerationConfig(do_sample=False, pad_token_id=0).save_pretrained(path)


def _llama_config(config: SyntheticConfig, layers: int) -> LlamaConfig:
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=config.vocab,
        hidden_size=config.hidden,
        num_hidden_layers=layers,
        intermediate_size=config.intermediate,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context,
        tie_word_embeddings=False,
        # No end of text, so that every benchmark runs to the length it asks for.
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        dtype="bfloat16",
    )


def _weights(config: SyntheticConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield names and weights, bfloat16, in one fixed order: the order is part of what the seed means."""
    generator = torch.Generator().manual_seed(config.seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> Tensor:
        weight = torch.randn(rows, columns, generator=generator)
        return weight.mul_(gain / math.sqrt(columns)).bfloat16()

    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    ones = torch.ones(config.hidden, dtype=torch.bfloat16)
    # Embeddings of unit variance: the first layer's output then adds to the token itself without drowning it.
    yield "model.embed_tokens.weight", matrix(config.vocab, config.hidden, config.hidden**0.5)
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}"
        written = 1.0 if layer < config.draft_layers else config.damping
        yield f"{prefix}.self_attn.q_proj.weight", matrix(queries, config.hidden, config.attention_gain)
        yield f"{prefix}.self_attn.k_proj.weight", matrix(keys, config.hidden)
        yield f"{prefix}.self_attn.v_proj.weight", matrix(keys, config.hidden, 2.0)
        yield f"{prefix}.self_attn.o_proj.weight", matrix(config.hidden, queries, 2.0 * written)
        yield f"{prefix}.mlp.gate_proj.weight", matrix(config.intermediate, config.hidden)
        yield f"{prefix}.mlp.up_proj.weight", matrix(config.intermediate, config.hidden)
        yield f"{prefix}.mlp.down_proj.weight", matrix(config.hidden, config.intermediate, written)
        yield f"{prefix}.input_layernorm.weight", ones.clone()
        yield f"{prefix}.post_attention_layernorm.weight", ones.clone()
    yield "model.norm.weight", ones.clone()
    yield "lm_head.weight", matrix(config.vocab, config.hidden, 4.0)
