import importlib
from typing import Any

import pytest
import torch
from transformers import AutoConfig, BitsAndBytesConfig

from actors.engine.blueprint import draw_blueprint
from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError, QuantizationError
from actors.engine.quantization import (
    asked_quantization,
    check_devices,
    check_stored,
    fits_cpu_kernel,
    make_quantizer,
    quiet_bitsandbytes,
)
from tests.actors.engine.tiny_models import ARCHITECTURES


def asked(**fields: Any) -> dict[str, Any]:
    quantization = asked_quantization(ModelConfig(model="tiny", **fields), torch.bfloat16)
    return {} if quantization is None else quantization.to_dict()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"quantization": "nf4"}, {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}),
        (
            {"quantization": "fp4", "double_quant": True},
            {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
        ),
        ({"quantization": "nf4", "compute_dtype": "float32"}, {"bnb_4bit_compute_dtype": "float32"}),
        ({"quantization": "int8"}, {"load_in_8bit": True, "load_in_4bit": False}),
        ({"quantization_config": {"load_in_8bit": True, "llm_int8_threshold": 3.0}}, {"llm_int8_threshold": 3.0}),
        ({"quantization_config": BitsAndBytesConfig(load_in_4bit=True).to_dict()}, {"load_in_4bit": True}),
    ],
)
def test_what_is_asked_for(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    got = asked(**fields)
    assert {key: got[key] for key in expected} == expected
    assert bool(got) == bool(expected)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"load_in_4bits": True}, "has no field load_in_4bits"),
        ({"load_in_4bit": "yes"}, "quantization_config: "),
        ({"load_in_4bit": True, "load_in_8bit": True}, "only one can be used"),
        ({"bnb_4bit_quant_type": "nf4"}, "one of load_in_4bit and load_in_8bit must be true"),
        ({"load_in_4bit": True, "bnb_4bit_compute_dtype": "float12"}, "quantization_config: "),
    ],
)
def test_a_full_configuration_is_checked(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        asked(quantization_config=fields)


@pytest.mark.parametrize(
    ("stored", "ask", "works"),
    [
        (None, "nf4", True),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes"}, "none", True),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes"}, "nf4", True),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes"}, "fp4", False),
        ({"load_in_8bit": True}, "int8", True),
        ({"load_in_8bit": True}, "nf4", False),
        ({"quant_method": "gptq", "bits": 4}, "none", True),
        ({"quant_method": "gptq", "bits": 4}, "nf4", False),
    ],
)
def test_a_quantized_checkpoint_is_not_quantized_otherwise(stored: Any, ask: Any, works: bool) -> None:
    quantization = asked_quantization(ModelConfig(model="tiny", quantization=ask), torch.float32)
    if works:
        check_stored("tiny", stored, quantization)
    else:
        with pytest.raises(QuantizationError, match=rf"already quantized \(\w+\) and cannot be loaded as {ask}"):
            check_stored("tiny", stored, quantization)


@pytest.mark.parametrize(
    ("devices", "is_stored", "says"),
    [
        (["cpu"], False, ""),
        ([0, 1], True, ""),
        ([0, "cpu", "disk"], False, ""),
        (["cpu", "disk"], False, "int8: quantized layers cannot be offloaded to disk"),
        ([0, "cpu"], True, r"already quantized cannot be offloaded \(cpu, cuda\)"),
    ],
)
def test_devices_of_quantized_layers(devices: list[int | str], is_stored: bool, says: str) -> None:
    quantization = BitsAndBytesConfig(load_in_8bit=True)
    if not says:
        check_devices(quantization, devices, is_stored=is_stored)
    else:
        with pytest.raises(QuantizationError, match=says):
            check_devices(quantization, devices, is_stored=is_stored)


def test_a_method_that_is_not_installed_is_refused() -> None:
    with pytest.raises(QuantizationError, match=r"quantization is not supported here: .*pip install"):
        make_quantizer({"quant_method": "gptq", "bits": 4, "group_size": 64}, is_stored=True)


@pytest.mark.parametrize(
    ("rows", "columns", "fits"), [(32, 64, True), (96, 192, True), (33, 64, False), (64, 96, False)]
)
def test_shapes_that_suit_the_kernel(rows: int, columns: int, fits: bool) -> None:
    assert fits_cpu_kernel(rows, columns) is fits


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (64, 128), (96, 192), (32, 320)])
def test_the_kernel_is_right_for_shapes_that_suit_it(rows: int, columns: int, kind: str) -> None:
    quiet_bitsandbytes()
    bnb: Any = importlib.import_module("bitsandbytes")
    torch.manual_seed(0)
    weight = torch.randn(rows, columns)
    layer = bnb.nn.Linear4bit(columns, rows, bias=False, compute_dtype=torch.float32, quant_type=kind)
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type=kind, module=layer).to("cpu")
    inputs = torch.randn(5, columns)
    with torch.inference_mode():
        got = layer.eval()(inputs)
    error = (got - inputs @ weight.T).norm() / (inputs @ weight.T).norm()
    assert error < 0.15, "4 bits cost about a tenth; a misread scale costs far more"


def draw(quantization: str, **fields: Any) -> Any:
    config = AutoConfig.for_model("llama", **{**ARCHITECTURES["llama"], **fields})
    bnb = asked_quantization(ModelConfig(model="tiny", quantization=quantization), torch.float32)  # type: ignore[arg-type]
    return draw_blueprint("tiny", config, torch.float32, bnb, is_cpu_only=True)


def test_layers_that_do_not_suit_stay_as_they_are_and_it_is_said() -> None:
    fitting, odd = draw("nf4"), draw("nf4", intermediate_size=144)
    up, down = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
    query = "model.layers.0.self_attn.q_proj.weight"
    assert fitting.notes == ()
    assert fitting.sizes[up] == 128 * 64 * 9 // 16
    assert odd.sizes[query] == 64 * 64 * 9 // 16
    assert odd.sizes[up] == odd.sizes[down] == 144 * 64 * 4
    assert odd.sizes["lm_head.weight"] == fitting.sizes["lm_head.weight"] == 199 * 64 * 4
    assert "model.layers.0.mlp.gate_proj and 8 more layers" in odd.notes[0]


def test_int8_takes_any_shape() -> None:
    assert draw("int8", intermediate_size=144).sizes["model.layers.0.mlp.up_proj.weight"] == 144 * 64
