"""Loading from disk to tokens, on a CPU; and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.engine.catalog import EMBEDDED
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.errors import ConfigError, DoesNotFitError, ModelNotFoundError, QuantizationError, VocabularyError
from actors.engine.loading import load_model
from actors.engine.probe import probe_layers
from tests.actors.engine.loading_harness import Make, edit_config, greedy, load
from tests.actors.engine.tiny_models import ARCHITECTURES, tiny_tokenizer


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


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_models_are_loaded_in_nf4(name: str) -> None:
    loaded = load(name, EngineConfig(), quantization="nf4")
    assert loaded.tokenizer is not None
    assert len(loaded.tokenizer) <= loaded.vocab_size
    assert loaded.notes == (), "every layer suits the 4-bit kernels"


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
        ({"model_type": "vit"}, "vit is not a model that generates text"),
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
