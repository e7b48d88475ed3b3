"""A model over several devices gives the tokens of the whole."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.engine import Engine
from actors.engine.errors import DoesNotFitError
from actors.engine.loading import load_model
from actors.engine.params import GenerationParams
from tests.actors.engine.harness import ragged_prompts, requests, run, tokens
from tests.actors.engine.loading_harness import ENGINE, NUM_NEW, Make, devices, greedy, load

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
