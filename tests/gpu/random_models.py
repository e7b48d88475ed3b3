"""Llamas with random weights in NF4, made on their device from a seed: real sizes without downloads.

The bfloat16 model never exists as a whole: each matrix is drawn, quantized and dropped. Statistics are those of
``cluster/demo/synthetic.py``, so that layers which write little (:func:`set_damping`) make a copy of the first few
(:func:`share`) a draft that is mostly right. The output layer is bfloat16, but holds values that NF4 represents: a
draft's 4-bit copy of it then says the same, and damping alone sets the acceptance.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from actors.engine.loaded import LoadedModel

DTYPE = torch.bfloat16
KIND = "nf4"
WRITERS = ("self_attn.o_proj", "mlp.down_proj")  # what adds to the residual stream
ATTENTION_GAIN = 2.0  # standard deviation of attention scores; see cluster/demo/synthetic.py
HEAD_GAIN = 4.0


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama: layers, widths, heads, ids."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int = 128256
    context: int = 8192

    def config(self) -> LlamaConfig:
        """As transformers takes it. There is no end of text, so that whatever runs goes to the length it asks for."""
        return LlamaConfig(
            architectures=["LlamaForCausalLM"],
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            intermediate_size=self.intermediate,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=self.context,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
            dtype="bfloat16",
        )


SHAPES = {
    "tiny": Shape(3, 64, 128, 4, 2, 16, vocab=512, context=1024),
    "1B": Shape(16, 2048, 8192, 32, 8, 64),
    "8B": Shape(32, 4096, 14336, 32, 8, 128),
    "70B": Shape(80, 8192, 28672, 64, 8, 128),
}


@torch.inference_mode(False)
@torch.no_grad()
def random_model(
    shape: Shape, device: torch.device | str, *, seed: int = 0, double_quant: bool = False
) -> LlamaForCausalLM:
    """A model in eval mode on ``device``, every layer at full strength. The same for the same seed and device type.

    Args:
        shape: its sizes.
        device: where it is made and stays.
        seed: of a generator on that device.
        double_quant: quantize the quantization constants too.
    """
    device = torch.device(device)
    generator = torch.Generator(device=device).manual_seed(seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> Tensor:
        weight = torch.randn(rows, columns, generator=generator, dtype=DTYPE, device=device)
        return weight.mul_(gain / math.sqrt(columns))

    def linear(rows: int, columns: int, gain: float = 1.0) -> Any:
        return quantized(matrix(rows, columns, gain), double=double_quant)

    model: Any = _skeleton(shape.config(), device)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    model.model.embed_tokens.weight = _fixed(matrix(shape.vocab, shape.hidden, math.sqrt(shape.hidden)))
    for layer in model.model.layers:
        layer.self_attn.q_proj = linear(queries, shape.hidden, ATTENTION_GAIN)
        layer.self_attn.k_proj = linear(keys, shape.hidden)
        layer.self_attn.v_proj = linear(keys, shape.hidden, 2.0)
        layer.self_attn.o_proj = linear(shape.hidden, queries, 2.0)
        layer.mlp.gate_proj = linear(shape.intermediate, shape.hidden)
        layer.mlp.up_proj = linear(shape.intermediate, shape.hidden)
        layer.mlp.down_proj = linear(shape.hidden, shape.intermediate)
        layer.input_layernorm.weight = _fixed(torch.ones(shape.hidden, dtype=DTYPE, device=device))
        layer.post_attention_layernorm.weight = _fixed(torch.ones(shape.hidden, dtype=DTYPE, device=device))
    model.model.norm.weight = _fixed(torch.ones(shape.hidden, dtype=DTYPE, device=device))
    packed, state = quantize_4bit(matrix(shape.vocab, shape.hidden, HEAD_GAIN), blocksize=64, quant_type=KIND)
    model.lm_head.weight = _fixed(dequantize_4bit(packed, state).to(DTYPE))
    made: LlamaForCausalLM = model
    return made


def quantized(weight: Tensor, *, double: bool = False) -> Any:
    """A ``Linear4bit`` without bias, as transformers' own load leaves it, of a weight (out, in) on its device."""
    layer = Linear4bit(
        weight.shape[1],
        weight.shape[0],
        bias=False,
        compute_dtype=DTYPE,
        compress_statistics=double,
        quant_type=KIND,
        device="meta",
    )
    given: Any = Params4bit(weight, requires_grad=False, compress_statistics=double, quant_type=KIND, module=layer)
    layer.weight = given.to(weight.device)  # this quantizes
    return layer.eval()


@torch.inference_mode(False)
@torch.no_grad()
def share(model: LlamaForCausalLM, num_layers: int | None = None, *, quantized_head: bool = False) -> LlamaForCausalLM:
    """A model of the first layers, with modules and a configuration of its own around the same tensors.

    Args:
        model: no engine may have been built on it yet, since engines may replace modules.
        num_layers: all by default.
        quantized_head: with an NF4 copy of the output layer.

    Raises:
        ValueError: it has not so many layers, or its layers are not those that :func:`random_model` made.
    """
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = num_layers or config.num_hidden_layers
    if config.num_hidden_layers > len(model.model.layers):
        raise ValueError(f"num_layers is {num_layers}, but the model has {len(model.model.layers)}")
    twin = _skeleton(config, model.device)
    for name, module in list(twin.named_modules()):
        source = model.get_submodule(name)
        if isinstance(source, Linear4bit):
            twin.set_submodule(name, _same_linear(source))
        elif (weight := module._parameters.get("weight")) is not None:
            if source._parameters.get("weight") is None:
                raise ValueError(f"{name} is a {type(source).__name__}; share a model before an engine is built on it")
            assert weight.shape == source.weight.shape
            module.weight = source.weight
    if quantized_head:
        twin.lm_head = quantized(model.lm_head.weight.detach().clone())
    return twin


@torch.no_grad()
def set_damping(model: LlamaForCausalLM, from_layer: int, value: float) -> None:
    """Let layers from ``from_layer`` on write ``value`` (above 0) of what they were made with, in place.

    Raises:
        ValueError: ``value`` is out of range.
    """
    if not value > 0:
        raise ValueError(f"damping is {value}; it must be above 0")
    for layer in model.model.layers[from_layer:]:
        for name in WRITERS:
            state = layer.get_submodule(name).weight.quant_state
            factor = value / getattr(state, "damping", 1.0)
            for scale in (state.state2.absmax, state.offset) if state.nested else (state.absmax,):
                scale.mul_(factor)
            state.damping = value


def as_loaded(model: LlamaForCausalLM, num_blocks: int = 256) -> LoadedModel:
    """A model as engines take it, without a tokenizer."""
    return LoadedModel(
        model=model,
        tokenizer=None,
        generation_config=model.generation_config,
        num_blocks=num_blocks,
        weight_bytes=read_bytes(model) + _num_bytes(model.model.embed_tokens.weight),
        kv_bytes_per_token=kv_bytes(model),
        layer_devices=dict.fromkeys(range(model.config.num_hidden_layers), model.device),
    )


def kv_bytes(model: LlamaForCausalLM) -> int:
    """Bytes of the keys and values of one token."""
    config: Any = model.config
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * DTYPE.itemsize)


def read_bytes(model: LlamaForCausalLM) -> int:
    """Bytes of weights and quantization constants that a forward of few tokens reads: all but the embeddings."""
    return sum(_num_bytes(t) for name, module in model.named_modules() for t in _tensors(name, module))


def _tensors(name: str, module: nn.Module) -> Iterator[Tensor]:
    weight = module._parameters.get("weight")
    if weight is None or name.endswith("embed_tokens"):
        return
    yield weight
    state = getattr(weight, "quant_state", None)
    if state is not None:
        yield state.absmax
        if state.nested:
            yield state.state2.absmax


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _fixed(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)


def _same_linear(source: Any) -> Any:
    layer = Linear4bit(
        source.in_features, source.out_features, bias=False, compute_dtype=DTYPE, quant_type=KIND, device="meta"
    )
    layer.weight = source.weight
    layer.quant_state = source.weight.quant_state
    return layer.eval()


def _skeleton(config: LlamaConfig, device: torch.device) -> LlamaForCausalLM:
    """A model whose weights are on the meta device, and whose rotary frequencies are real."""
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device)
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
    model.is_quantized = True
    model.is_loaded_in_4bit = True
    made: LlamaForCausalLM = model.eval()
    return made
