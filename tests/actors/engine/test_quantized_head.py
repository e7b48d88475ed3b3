"""A draft's output layer in 4 bit: close to the plain one, and only where it is worth it."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError
from actors.engine.quantized_head import MIN_NUM_WEIGHTS, quantize_head

HIDDEN = 64


def model(vocab: int, *, tied: bool) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("tied", [False, True])
@torch.inference_mode()
def test_logits_stay_close_and_a_shared_embedding_stays_as_it_is(kind: str, *, tied: bool) -> None:
    large = model(MIN_NUM_WEIGHTS // HIDDEN, tied=tied)
    embedding = large.get_input_embeddings().weight.detach().clone()
    hidden = torch.randn(3, HIDDEN)
    want = large.lm_head(hidden)
    assert quantize_head(large, kind, double=False)
    assert type(large.lm_head) is not nn.Linear
    got = large.lm_head(hidden)
    assert got.shape == want.shape
    similarity = torch.nn.functional.cosine_similarity(got, want, dim=-1)
    assert bool((similarity > 0.98).all())
    assert not torch.equal(got, want)
    assert torch.equal(large.get_input_embeddings().weight, embedding)


def test_a_small_layer_is_left_alone() -> None:
    small = model(512, tied=False)
    assert not quantize_head(small, "nf4", double=False)
    assert type(small.lm_head) is nn.Linear


def test_it_needs_a_4_bit_model() -> None:
    with pytest.raises(ConfigError, match="quantize_head"):
        ModelConfig(model="demo", quantization="int8", quantize_head=True)
