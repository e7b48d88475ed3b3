"""A packed output layer gives what the plain one gives, whoever shares its weights."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actors.engine.packed_head import PackedHead, use_packed_head

needs_bfloat16 = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="oneDNN has no bfloat16 product on this processor, so nothing is packed",
)


def tiny_model(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=199,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        tie_word_embeddings=False,
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config).eval()
    return model.bfloat16() if dtype is torch.bfloat16 else model


@needs_bfloat16
@pytest.mark.parametrize("is_shared", [False, True])
@torch.inference_mode()
def test_logits_are_those_of_the_plain_layer(*, is_shared: bool) -> None:
    model = tiny_model(torch.bfloat16)
    if is_shared:
        model.lm_head.weight = model.get_input_embeddings().weight
    weight = model.lm_head.weight.detach().clone()
    rows = torch.randn(2, 7, weight.shape[1], dtype=torch.bfloat16)
    want = model.lm_head(rows)
    assert use_packed_head(model)
    assert isinstance(model.lm_head, PackedHead)
    got = model.lm_head(rows)
    assert got.shape == want.shape
    assert torch.allclose(got, want, rtol=2**-7, atol=1e-3)
    assert torch.equal(model.lm_head.weight, weight)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is is_shared


@needs_bfloat16
@torch.inference_mode()
def test_a_row_does_not_depend_on_its_neighbours() -> None:
    model = tiny_model(torch.bfloat16)
    assert use_packed_head(model)
    rows = torch.randn(16, model.lm_head.in_features, dtype=torch.bfloat16)
    alone = torch.cat([model.lm_head(row[None]) for row in rows])
    assert torch.equal(model.lm_head(rows), alone)


@torch.inference_mode()
def test_other_precisions_are_left_alone() -> None:
    model = tiny_model(torch.float32)
    assert not use_packed_head(model)
    assert type(model.lm_head) is torch.nn.Linear
