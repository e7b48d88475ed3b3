"""Tiny random models of every architecture that the engine is held to, saved as a user would have them on disk.

Weights are drawn so that logits have real spread and each layer moves the residual stream: greedy decoding then wanders
through the vocabulary instead of repeating one token, and a wrong key, mask or position changes the tokens at once.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from actors.engine.auto_model import auto_class

VOCAB_SIZE = 199
HIDDEN_SIZE = 64
HEAD_DIM = 16
CONTEXT = 512
SLIDING_WINDOW = 12
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")  # ids 0, 1, 2, 3

_SPECIAL_IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_COMMON: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "tie_word_embeddings": False, **_SPECIAL_IDS}
_GQA: dict[str, Any] = {
    **_COMMON,
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
_WINDOWS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
_MHA: dict[str, Any] = {**_GQA, "num_key_value_heads": 4}
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "output_router_logits": False}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _GQA,
    "qwen2": _GQA,
    "qwen3": {**_GQA, "head_dim": HEAD_DIM},
    "mistral": {**_GQA, "head_dim": HEAD_DIM, "sliding_window": SLIDING_WINDOW},
    "gemma2": {
        **_GQA,
        "head_dim": HEAD_DIM,
        "num_hidden_layers": 4,
        "layer_types": _WINDOWS,
        "sliding_window": SLIDING_WINDOW,
        "query_pre_attn_scalar": HEAD_DIM,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 12.0,
    },
    "gemma3_text": {
        **_GQA,
        "head_dim": HEAD_DIM,
        "num_hidden_layers": 4,
        "layer_types": _WINDOWS,
        "sliding_window": SLIDING_WINDOW,
        "query_pre_attn_scalar": HEAD_DIM,
    },
    "phi3": {**_GQA, "original_max_position_embeddings": CONTEXT},
    "gpt2": {**_COMMON, "n_embd": HIDDEN_SIZE, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT},
    "opt": {
        **_COMMON,
        "hidden_size": HIDDEN_SIZE,
        "word_embed_proj_dim": HIDDEN_SIZE,
        "ffn_dim": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
    },
    "gpt_neox": {key: value for key, value in _MHA.items() if key != "num_key_value_heads"},
    "mixtral": {**_GQA, **_EXPERTS, "num_local_experts": 4},
    "qwen3_moe": {**_GQA, **_EXPERTS, "head_dim": HEAD_DIM, "num_experts": 4, "moe_intermediate_size": 64},
    "mamba": {**_COMMON, "hidden_size": HIDDEN_SIZE, "state_size": 8, "num_hidden_layers": 2, "time_step_rank": 4},
}

ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "t5": {
        "vocab_size": VOCAB_SIZE,
        "d_model": HIDDEN_SIZE,
        "d_kv": HEAD_DIM,
        "d_ff": 128,
        "num_layers": 3,
        "num_heads": 4,
        **_SPECIAL_IDS,
        "decoder_start_token_id": 0,
    },
    "bart": {
        **_COMMON,
        "d_model": HIDDEN_SIZE,
        "encoder_layers": 3,
        "decoder_layers": 3,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "decoder_start_token_id": 2,
        "tie_word_embeddings": True,
    },
}


def make_tiny(architecture: str, path: str | Path, *, seed: int = 0, **overrides: Any) -> str:
    """Save a tiny random model of an architecture as safetensors, in float32, and return where it lies.

    Args:
        architecture: a key of :data:`ARCHITECTURES` or :data:`ENCODER_DECODERS` (a ``model_type`` of transformers).
        path: folder to write to; created if it is not there.
        seed: of the weights. Torch's own generator is left as it was.
        overrides: fields of the architecture's configuration.
    """
    fields = {**ARCHITECTURES, **ENCODER_DECODERS}[architecture]
    config = AutoConfig.for_model(architecture, **{**fields, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class(config).from_config(config, dtype=torch.float32)
        _spread(model)
    start = getattr(config, "decoder_start_token_id", None)
    model.generation_config = GenerationConfig(**_SPECIAL_IDS, decoder_start_token_id=start)
    model.eval().save_pretrained(str(path))
    return str(path)


@torch.no_grad()
def _spread(model: PreTrainedModel) -> None:
    """Draw matrices to outweigh the embeddings in the residual stream, and move norms and biases off ones and zeros."""
    head = model.get_output_embeddings()
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    for name, parameter in model.named_parameters():
        if re.search(r"A_log|\.D$|dt_proj\.bias", name):
            continue  # a state-space model's own dynamics are stable only as they were initialised
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.1)
        elif head is not None and parameter is head.weight:
            parameter.normal_(std=4.0 / HIDDEN_SIZE**0.5)
        elif id(parameter) in tables:
            parameter.normal_(std=0.3)
        else:
            parameter.normal_(std=2.0 / min(parameter.shape[-2:]) ** 0.5)  # GPT-2 stores (inputs, outputs)


def tiny_tokenizer(path: str | Path, vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """Save a byte-level tokenizer with ids below ``vocab_size`` and return it.

    Ids 0 to 3 are the special tokens; then one id a byte: ASCII, UTF-8 continuation bytes, lead bytes. Where the
    vocabulary ends before the bytes do, the rest become ``<unk>``. No special token is added to a text.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    characters = _byte_characters()
    order = [*range(0x80), *range(0x80, 0xC0), 0xC3, 0xC2, 0xE2, *(b for b in range(0xC0, 0x100) if b not in _LEADS)]
    tokens = [*SPECIAL_TOKENS, *(characters(byte) for byte in order)][:vocab_size]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    pad, bos, eos, unk = SPECIAL_TOKENS
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos, unk_token=unk, padding_side="left"
    )
    fast.save_pretrained(str(path))
    return fast


_LEADS = (0xC3, 0xC2, 0xE2)


def _byte_characters() -> Callable[[int], str]:
    """Return the map from a byte to the printable character that byte-level tokenizers write for it.

    Printable Latin-1 stands for itself; every other byte takes the next code point from 256 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in printable]
    return lambda byte: chr(byte) if byte in printable else chr(0x100 + others.index(byte))
