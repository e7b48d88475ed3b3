"""Quantized models give the tokens that transformers gives with them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from actors.engine.errors import QuantizationError
from tests.actors.engine.loading_harness import Make, edit_config, greedy, load
from tests.actors.engine.tiny_models import make_tiny

QUANTIZED: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_compute_dtype": torch.float32},
    "int8": {"load_in_8bit": True},
}


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_tokens_are_those_of_transformers_and_memory_is_less(make: Make, kind: str) -> None:
    loaded = load(make("llama"), quantization=kind)
    reference = AutoModelForCausalLM.from_pretrained(
        make("llama"), device_map="cpu", quantization_config=BitsAndBytesConfig(**QUANTIZED[kind])
    )
    assert greedy(loaded.model) == greedy(reference)
    plain = load(make("llama"))
    layers = plain.weight_bytes - 2 * 199 * 64 * 4  # without embeddings and head, which stay as they are
    quantized = loaded.weight_bytes - 2 * 199 * 64 * 4
    assert quantized / layers < (0.16 if kind != "int8" else 0.26)
    assert loaded.model.get_memory_footprint() <= loaded.weight_bytes


def test_a_full_bitsandbytes_configuration_is_the_short_one(make: Make) -> None:
    full = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}
    assert greedy(load(make("llama"), quantization_config=full).model) == greedy(
        load(make("llama"), quantization="nf4").model
    )


def test_double_quantization_is_passed_on(make: Make) -> None:
    quantization: Any = load(make("llama"), quantization="nf4", double_quant=True).model.config.quantization_config
    assert quantization.bnb_4bit_use_double_quant
    assert quantization.bnb_4bit_compute_dtype == torch.float32


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantized_checkpoint_is_loaded_as_it_is(make: Make, tmp_path: Path, kind: str) -> None:
    before = load(make("llama"), quantization=kind)
    before.model.save_pretrained(tmp_path)
    for asked in ("none", kind):
        after = load(str(tmp_path), quantization=asked)
        assert greedy(after.model) == greedy(before.model)
        assert after.model.get_memory_footprint() == before.model.get_memory_footprint()
    with pytest.raises(QuantizationError, match=f"already quantized \\({kind}\\)"):
        load(str(tmp_path), quantization="fp4")
    with pytest.raises(QuantizationError, match="cannot be offloaded to disk"):
        load(str(tmp_path), device_map={"": "cpu", "model.layers.1": "disk"})


def test_shapes_that_4_bit_kernels_misread_are_left_out(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "odd", intermediate_size=144)
    loaded = load(folder, quantization="nf4")
    assert "not quantized" in loaded.notes[0]
    model: Any = loaded.model
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert type(model.model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"
    greedy(model)


def test_a_checkpoint_stored_in_shapes_that_kernels_misread_is_refused(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "odd", intermediate_size=144)
    fields = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4").to_dict()
    edit_config(folder, quantization_config=fields)
    with pytest.raises(QuantizationError, match=r"mlp.gate_proj is stored in 4 bit with shape \(144, 64\)"):
        load(folder)


def test_fused_experts_stay_as_they_are_and_it_is_said(make: Make) -> None:
    assert "90% of the weights" in load(make("mixtral"), quantization="nf4").notes[0]
