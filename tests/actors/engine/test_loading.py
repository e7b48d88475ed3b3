"""Loading from disk to tokens, on a CPU."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.engine import Engine
from actors.engine.errors import (
    ConfigError,
    DoesNotFitError,
    ModelNotFoundError,
    QuantizationError,
    VocabularyError,
)
from actors.engine.loaded import LoadedModel
from actors.engine.loading import load_model
from actors.engine.params import GenerationParams
from actors.engine.probe import probe_layers
from tests.actors.engine.harness import ragged_prompts, requests, run, tokens
from tests.actors.engine.tiny_models import ARCHITECTURES, make_tiny, tiny_tokenizer

ENGINE = EngineConfig(block_size=4, num_blocks=64)
PROMPT = tuple(range(10, 30))
NUM_NEW = 16
QUANTIZED: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_compute_dtype": torch.float32},
    "int8": {"load_in_8bit": True},
}
Make = Callable[[str], str]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Returns the folder of a tiny model, made at its first use; a name behind a colon makes another copy."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> str:
        path = root / name.replace(":", "-")
        if not path.is_dir():
            make_tiny(name.split(":")[0], path)
        return str(path)

    return folder


def load(model: str, engine: EngineConfig = ENGINE, **fields: Any) -> LoadedModel:
    return load_model(ModelConfig(model=model, **fields), engine)


def greedy(model: Any, prompt: tuple[int, ...] = PROMPT) -> list[int]:
    """New ids by transformers' own generate, whatever ends a text."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=None
    )
    return [int(token) for token in out[0, len(prompt) :]]


def devices(model: Any) -> set[str]:
    """Where the parts of a model rest."""
    return {str(device) for device in model.hf_device_map.values()}


def edit_config(folder: str, **fields: Any) -> None:
    file = Path(folder) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_a_plain_model_is_loaded_whole(make: Make) -> None:
    tiny_tokenizer(make("llama"))
    loaded = load(make("llama"), EngineConfig(num_blocks=64))
    assert greedy(loaded.model) == greedy(AutoModelForCausalLM.from_pretrained(make("llama")))
    assert loaded.tokenizer is not None
    assert loaded.generation_config.eos_token_id == 2
    assert loaded.weight_bytes == loaded.model.get_memory_footprint()
    assert loaded.layer_devices == {index: torch.device("cpu") for index in range(3)}
    assert (loaded.num_blocks, loaded.vocab_size, loaded.notes) == (64, 199, ())
    assert not loaded.model.training


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "mamba"])
def test_the_cache_takes_the_bytes_that_were_planned(make: Make, architecture: str) -> None:
    loaded = load(make(architecture), dtype="bfloat16")
    stored = probe_layers(loaded)
    assert sum(spec.bytes_per_token for spec in stored.values()) == loaded.kv_bytes_per_token
    assert {index: spec.device for index, spec in stored.items()} == loaded.layer_devices


def test_a_dtype_can_be_asked_for(make: Make) -> None:
    assert load(make("llama")).model.dtype == torch.float32
    assert load(make("llama"), dtype="bfloat16").model.dtype == torch.bfloat16


def test_the_dtype_of_the_weights_is_taken_where_the_configuration_has_none(make: Make) -> None:
    folder = make("llama:undated")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    edit_config(folder, dtype=None)
    assert load(folder).model.dtype == torch.bfloat16


def test_generation_defaults_lie_over_the_models(make: Make) -> None:
    loaded = load(make("llama"), generation={"do_sample": True, "temperature": 0.5, "eos_token_id": [2, 7]})
    config = loaded.generation_config
    assert (config.do_sample, config.temperature, config.eos_token_id, config.pad_token_id) == (True, 0.5, [2, 7], 0)
    with pytest.raises(ConfigError, match="generation: GenerationConfig has no field bananas"):
        load(make("llama"), generation={"bananas": 1})


# --------------------------------------------------------------------------------------------------------- quantization


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


# ------------------------------------------------------------------------------------------------------------- sharding

MAPS: dict[str, dict[str, dict[str, str]]] = {
    "llama": {
        "a layer on disk": {"": "cpu", "model.layers.1": "disk"},
        "only a layer in memory": {"": "disk", "model.layers.2": "cpu"},
        "a layer in two parts": {"": "cpu", "model.layers.0.mlp": "disk", "lm_head": "disk"},
    },
    "gpt2": {"tied ends on disk": {"": "cpu", "transformer.wte": "disk", "transformer.h.0": "disk"}},
    "gemma2": {"windows": {"": "cpu", "model.layers.0": "disk", "model.layers.3": "disk"}},
    "mixtral": {"experts": {"": "cpu", "model.layers.1": "disk"}},
}
SHARDED = [(architecture, name) for architecture, maps in MAPS.items() for name in maps]


@pytest.mark.parametrize(("architecture", "name"), SHARDED)
def test_a_model_over_cpu_and_disk_gives_the_tokens_of_the_whole(make: Make, architecture: str, name: str) -> None:
    sharded = load(make(architecture), device_map=MAPS[architecture][name])
    assert devices(sharded.model) == {"cpu", "disk"}
    assert any(parameter.device.type == "meta" for parameter in sharded.model.parameters())
    assert "layers on disk" in sharded.notes[-1]
    assert set(sharded.layer_devices.values()) == {torch.device("cpu")}
    whole = AutoModelForCausalLM.from_pretrained(make(architecture))
    prompts = ragged_prompts(4)
    want = [greedy(whole, prompt) for prompt in prompts]
    assert [greedy(sharded.model, prompt) for prompt in prompts] == want
    params = GenerationParams(max_new_tokens=NUM_NEW)
    got = tokens(run(Engine(sharded, ENGINE), requests(prompts, params)))
    assert list(got.values()) == want


def test_a_strategy_puts_on_disk_what_memory_cannot_hold(make: Make, tmp_path: Path) -> None:
    limits: dict[str, Any] = {"max_memory": {"cpu": "400KB"}, "engine": EngineConfig(block_size=4, num_blocks=16)}
    with pytest.raises(DoesNotFitError, match=r"cpu: weights of 533.3 KiB .* 390.6 KiB may be used"):
        load(make("llama"), **limits)
    sharded = load(make("llama"), **limits, offload_folder=str(tmp_path))
    assert "disk" in devices(sharded.model)
    assert greedy(sharded.model) == greedy(AutoModelForCausalLM.from_pretrained(make("llama")))


@pytest.mark.parametrize("strategy", ["auto", "balanced", "balanced_low_0", "sequential", "cpu"])
def test_strategies_without_a_gpu(make: Make, strategy: str) -> None:
    loaded = load_model(
        ModelConfig(model=make("llama"), device_map=strategy), ENGINE, read_free_memory=lambda: {"cpu": 2**30}
    )
    assert {parameter.device.type for parameter in loaded.model.parameters()} == {"cpu"}


# --------------------------------------------------------------------------------------------------------------- errors


def test_a_wrong_path_is_named() -> None:
    with pytest.raises(ModelNotFoundError, match="no such folder: /no/such/model"):
        load("/no/such/model")


def test_a_tokenizer_that_does_not_fit_is_refused(make: Make, tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path, vocab_size=220)
    with pytest.raises(VocabularyError, match="knows ids 0 to 198"):
        load(make("llama"), tokenizer=str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model_type": "bananas"}, "does not know its model_type 'bananas'"),
        ({"model_type": "bananas", "auto_map": {"AutoConfig": "code.Own"}}, "remote code is never run"),
        ({"model_type": "t5"}, "t5 is an encoder-decoder"),
        ({"model_type": "vit"}, "vit is not a causal language model"),
        ({"num_hidden_layers": "three"}, "config.json: "),
    ],
)
def test_models_that_cannot_be_served_are_refused(make: Make, fields: dict[str, Any], says: str) -> None:
    folder = make(f"llama:{fields}")
    edit_config(folder, **fields)
    with pytest.raises(ConfigError, match=says):
        load(folder)


def test_code_in_a_checkpoint_is_no_bar_where_transformers_has_its_own(make: Make) -> None:
    folder = make("llama:mapped")
    edit_config(folder, auto_map={"AutoConfig": "code.Own"})
    assert greedy(load(folder).model) == greedy(load(make("llama")).model)


def test_pickled_weights_are_refused(make: Make) -> None:
    folder = Path(make("llama:pickled"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="only safetensors are loaded"):
        load(str(folder))


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"device_map": "cuda:0"}, ConfigError, "there is no device cuda:0 here; there are cpu"),
        ({"device_map": {"model": "cpu"}}, ConfigError, "no device is given for lm_head.weight"),
        ({"max_memory": {"cpu": "lots"}}, ConfigError, "max_memory: a size such as"),
        ({"quantization": "nf4", "device_map": "disk"}, QuantizationError, "nf4: quantized layers cannot be offloaded"),
        ({"attn_implementation": "bananas"}, ConfigError, "attn_implementation 'bananas'"),
        ({"engine": EngineConfig(max_model_len=513)}, ConfigError, "max_model_len: the model's context is 512"),
        ({"engine": EngineConfig(num_blocks=10**9)}, DoesNotFitError, "Lower num_blocks"),
        ({"engine": EngineConfig(kv_cache_memory=50_000, max_model_len=512)}, DoesNotFitError, "room for 64 tokens"),
    ],
)
def test_configurations_that_cannot_work_are_refused(
    make: Make, fields: dict[str, Any], error: type[ConfigError], says: str
) -> None:
    with pytest.raises(error, match=says):
        load_model(
            ModelConfig(model=make("llama"), **{key: value for key, value in fields.items() if key != "engine"}),
            fields.get("engine", EngineConfig()),
            read_free_memory=lambda: {"cpu": 2**30},
        )
