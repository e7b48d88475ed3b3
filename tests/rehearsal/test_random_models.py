"""Random models in NF4 on a CPU: made as transformers' own load makes them, sharing, damping and acceptance."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaForCausalLM

from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from tests.gpu.acceptance import calibrate, draft_text, measure_agreement
from tests.gpu.benchmarks.native import generate
from tests.gpu.benchmarks.streams import run_plain
from tests.gpu.random_models import SHAPES, as_loaded, kv_bytes, quantized, random_model, read_bytes, set_damping, share

TINY = SHAPES["tiny"]


def made(seed: int = 0, **more: bool) -> Any:
    return random_model(TINY, "cpu", seed=seed, **more)


def weight_of(model: Any, name: str) -> torch.Tensor:
    """A 4-bit layer's weight as it counts."""
    parameter = model.get_submodule(name).weight
    weight: torch.Tensor = dequantize_4bit(parameter.data, parameter.quant_state)
    return weight.float()


def test_a_seed_says_which_model() -> None:
    ids = torch.arange(1, 9)[None]
    first, same, other = (made(seed)(input_ids=ids).logits for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_nothing_is_left_without_values() -> None:
    model = made()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert tensor.device.type == "cpu", name
        assert not tensor.requires_grad, name
    assert not model.training
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("double", [False, True])
def test_layers_are_those_of_transformers_own_load(tmp_path: Path, double: bool) -> None:
    source: Any = LlamaForCausalLM(TINY.config())
    source.to(dtype=torch.bfloat16)
    source.save_pretrained(tmp_path)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=double,
    )
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, quantization_config=config)
    theirs = loaded.model.layers[1].mlp.down_proj
    ours = quantized(source.model.layers[1].mlp.down_proj.weight.detach(), double=double)
    assert torch.equal(ours.weight.data, theirs.weight.data)
    assert ours.weight.quant_state == theirs.weight.quant_state
    assert ours.quant_state is ours.weight.quant_state
    for name in ("bnb_quantized", "quant_type", "blocksize", "compress_statistics", "quant_storage"):
        assert getattr(ours.weight, name) == getattr(theirs.weight, name)
    for name in ("compute_dtype", "in_features", "out_features", "bias", "training"):
        assert getattr(ours, name) == getattr(theirs, name)
    rows = torch.randn(3, TINY.intermediate).bfloat16()
    assert torch.equal(ours(rows), theirs(rows))


@pytest.mark.parametrize("double", [False, True])
def test_damping_scales_what_later_layers_write_and_nothing_else(double: bool) -> None:
    model = made(double_quant=double)
    names = ["self_attn.o_proj", "mlp.down_proj", "mlp.up_proj"]
    before = [weight_of(model, f"model.layers.{layer}.{name}") for layer in range(3) for name in names]
    set_damping(model, 1, 0.5)
    set_damping(model, 1, 0.125)
    after = [weight_of(model, f"model.layers.{layer}.{name}") for layer in range(3) for name in names]
    for index, (was, now) in enumerate(zip(before, after, strict=True)):
        factor = 0.125 if index >= len(names) and index % len(names) < 2 else 1.0
        torch.testing.assert_close(now, was * factor, rtol=0.01, atol=1e-4)
    with pytest.raises(ValueError, match="damping is 0"):
        set_damping(model, 1, 0)


def test_a_copy_shares_tensors_and_has_modules_and_a_configuration_of_its_own() -> None:
    model = made()
    draft: Any = share(model, 2, quantized_head=True)
    assert len(draft.model.layers) == draft.config.num_hidden_layers == 2
    assert len(model.model.layers) == 3
    for name in ("model.embed_tokens", "model.norm", "model.layers.1.mlp.up_proj", "model.layers.0.input_layernorm"):
        assert draft.get_submodule(name) is not model.get_submodule(name)
        assert draft.get_submodule(name).weight is model.get_submodule(name).weight
    assert [layer.self_attn.layer_idx for layer in draft.model.layers] == [0, 1]
    draft.set_attn_implementation("eager")
    assert model.model.layers[0].self_attn.config._attn_implementation == "sdpa"
    ids = torch.arange(1, 9)[None]
    assert torch.equal(share(model)(input_ids=ids).logits, model(input_ids=ids).logits)
    with pytest.raises(ValueError, match="num_layers is 4"):
        share(model, 4)


def test_what_an_engine_has_changed_is_not_shared() -> None:
    model = made()
    Engine(as_loaded(model), EngineConfig(num_blocks=8))
    with pytest.raises(ValueError, match="before an engine"):
        share(model)


def test_bytes_are_those_of_the_tensors() -> None:
    model = made()
    per_layer = 2 * (64 * 64 + 64 * 32) + 3 * 64 * 128
    assert read_bytes(model) == 3 * (per_layer // 2 + per_layer // 64 * 4 + 2 * 64 * 2) + 64 * 2 + 512 * 64 * 2
    assert kv_bytes(model) == 3 * 2 * 2 * 16 * 2 == as_loaded(model).kv_bytes_per_token


def test_a_draft_of_the_first_layer_agrees_as_often_as_asked_for() -> None:
    model = made()
    draft = share(model, 1, quantized_head=True)
    set_damping(model, 1, 0.1)
    assert measure_agreement(model, draft, 64) > 0.5
    damping, agreement = calibrate(model, draft, 0.8, 96)
    assert agreement == pytest.approx(0.8, abs=0.06)
    assert damping == pytest.approx(0.1, rel=1.0)
    # The head holds what NF4 represents, so that its 4-bit copy costs no agreement.
    assert measure_agreement(share(model, 1), draft, 96) > 0.97


def test_generate_and_the_engine_give_the_same_tokens() -> None:
    model = made()
    set_damping(model, 1, 0.05)
    prompt = draft_text(share(model, 1), 4)[0].tolist()
    want = generate(share(model), prompt, 12)
    assert len(want) == 12
    engine = Engine(as_loaded(model, 16), EngineConfig(num_blocks=16))
    assert run_plain(engine, [prompt], 12) == [want]
