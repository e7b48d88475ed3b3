from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig

from actors.engine.blueprint import Blueprint, draw_blueprint
from actors.engine.devices import Device, execution_devices, main_device, parse_device
from actors.engine.errors import ConfigError, DoesNotFitError
from actors.engine.placement import Placement, place
from tests.actors.engine.tiny_models import ARCHITECTURES

NUM_LAYERS = 12
KV_BYTES = (128,) * NUM_LAYERS
LAYER = 74_000  # bytes of one layer's weights in bfloat16, rounded up


def blueprint(architecture: str = "llama", num_layers: int = NUM_LAYERS) -> Blueprint:
    fields = {**ARCHITECTURES[architecture], "num_hidden_layers": num_layers}
    config = AutoConfig.for_model(architecture, **fields)
    return draw_blueprint("tiny", config, torch.bfloat16, None, is_cpu_only=False)


def put(device_map: Any, usable: dict[Device, int], *tokens: int, disk: bool = False) -> Placement:
    return place(blueprint(), device_map, usable, KV_BYTES, tokens or (0,), can_use_disk=disk)


def layers_by_device(placement: Placement) -> dict[Device, int]:
    counts: dict[Device, int] = {}
    for name, device in placement.device_map.items():
        if "layers." in name:
            counts[device] = counts.get(device, 0) + 1
    return counts


@pytest.mark.parametrize(
    ("text", "device"), [("cpu", "cpu"), ("disk", "disk"), (1, 1), ("cuda", 0), ("cuda:3", 3), ("2", 2), ("mps", "mps")]
)
def test_devices_are_named_as_accelerate_names_them(text: int | str, device: Device) -> None:
    assert parse_device(text) == device


def test_an_unknown_device_or_strategy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'balanse' is neither one of auto, balanced, balanced_low_0, sequential"):
        put("balanse", {"cpu": 10**9})


@pytest.mark.parametrize(("devices", "main"), [(["cpu", 1, 0], 0), (["disk", "cpu"], "cpu"), ([1, "disk"], 1)])
def test_offloaded_layers_run_on_the_first_accelerator(devices: list[Device], main: Device) -> None:
    assert main_device(devices) == main


@pytest.mark.parametrize("strategy", ["auto", "balanced", "balanced_low_0", "sequential"])
def test_without_a_gpu_every_strategy_means_the_cpu(strategy: str) -> None:
    assert put(strategy, {"cpu": 10**9}).device_map == {"": "cpu"}


def test_strategies_spread_layers_over_gpus() -> None:
    usable: dict[Device, int] = {0: 10**7, 1: 10**7, "cpu": 10**9}
    assert put("sequential", usable).device_map == {"": 0}
    balanced = layers_by_device(put("auto", usable))
    assert set(balanced) == {0, 1}
    assert min(balanced.values()) >= 4
    assert put("balanced_low_0", usable).device_map == {"": 1}
    assert put("auto", {0: 0, 1: 10**7, "cpu": 10**9}).device_map == {"": 1}, "a cap of 0 excludes a device"


def test_the_kv_cache_is_counted_with_its_layers() -> None:
    usable: dict[Device, int] = {0: 7 * LAYER, 1: 10**8, "cpu": 10**9}
    assert layers_by_device(put("sequential", usable))[0] == 5  # a layer's room stays free for offloaded ones
    tokens = LAYER // KV_BYTES[0]  # each layer's cache is as large as its weights
    with_cache = put("sequential", usable, tokens)
    assert layers_by_device(with_cache)[0] == 2
    assert with_cache.loads[0].kv_bytes == 2 * KV_BYTES[0]
    assert with_cache.loads[1].kv_bytes == 10 * KV_BYTES[0]
    for load in with_cache.loads.values():
        assert load.weights + load.kv_bytes * tokens <= load.usable


def test_the_kv_cache_of_offloaded_layers_is_counted_where_they_run() -> None:
    usable: dict[Device, int] = {0: 8 * LAYER, "cpu": 10**9}
    tokens = LAYER // KV_BYTES[0] // 4
    placement = put("auto", usable, tokens)
    assert layers_by_device(placement)["cpu"] > 0
    assert placement.loads[0].kv_bytes == NUM_LAYERS * KV_BYTES[0]
    assert placement.loads["cpu"].kv_bytes == 0
    assert placement.loads[0].weights + placement.loads[0].kv_bytes * tokens <= usable[0]


def test_no_layer_is_offloaded_for_a_cache_that_nobody_asked_for() -> None:
    usable: dict[Device, int] = {0: 16 * LAYER, "cpu": 10**9}
    wish, least = LAYER // KV_BYTES[0], 32
    assert layers_by_device(put("auto", usable, wish))["cpu"] > 0
    assert put("auto", usable, wish, least).device_map == {"": 0}
    too_small: dict[Device, int] = {0: 6 * LAYER, "cpu": 10**9}
    on_cpu = [layers_by_device(put("auto", too_small, *tokens))["cpu"] for tokens in ((wish, least), (least,))]
    assert on_cpu[0] == on_cpu[1]


def test_quantized_layers_are_counted_whole_where_they_are_offloaded_to_the_cpu() -> None:
    config = AutoConfig.for_model("llama", **ARCHITECTURES["llama"])
    drawn = draw_blueprint("tiny", config, torch.float32, BitsAndBytesConfig(load_in_8bit=True), is_cpu_only=False)
    usable: dict[Device, int] = {0: 10**7, "cpu": 10**7}
    placement = place(drawn, {"": 0, "model.layers.1": "cpu"}, usable, (128,) * 3, (0,), can_use_disk=False)
    linear = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64
    assert placement.loads["cpu"].weights == 4 * (linear + 2 * 64)
    assert placement.loads[0].weights == 2 * (linear + 4 * 2 * 64) + 4 * (2 * 199 * 64 + 64) + 4 * 16


def test_a_layer_runs_where_its_hook_says() -> None:
    layers = nn.ModuleDict({name: nn.Linear(2, 2, device="meta") for name in ("plain", "hooked", "chained")})
    layers["plain"].to_empty(device="cpu")
    setattr(layers["hooked"], "_hf_hook", SimpleNamespace(execution_device=1))  # noqa: B010
    device = torch.device("cuda", 2)
    hooks = [SimpleNamespace(execution_device=None), SimpleNamespace(execution_device=device)]
    setattr(layers["chained"], "_hf_hook", SimpleNamespace(hooks=hooks))  # noqa: B010
    found = execution_devices(layers, dict(enumerate(layers)))
    assert found == {0: torch.device("cpu"), 1: torch.device("cuda", 1), 2: device}


def test_a_strategy_goes_to_disk_only_where_that_is_wanted() -> None:
    usable: dict[Device, int] = {0: 3 * LAYER, "cpu": 5 * LAYER}
    with pytest.raises(DoesNotFitError, match=r"weights of .* do not fit .*cuda:0 216.8 KiB, cpu .*offload_folder"):
        put("auto", usable)
    assert layers_by_device(put("auto", usable, disk=True))["disk"] > 0
    assert layers_by_device(put("auto", {"cpu": 5 * LAYER}, disk=True))["disk"] > 0


def test_a_map_is_spelt_out_to_whole_layers() -> None:
    placement = put({"": "cpu", "model.layers.1": "disk"}, {"cpu": 10**9})
    assert placement.device_map["model.layers.1"] == "disk"
    assert placement.device_map["model.layers.10"] == "cpu", "a name is not a prefix of its neighbour's"
    assert layers_by_device(placement) == {"cpu": NUM_LAYERS - 1, "disk": 1}
    assert placement.device_map["lm_head"] == "cpu"
    assert placement.loads["cpu"].kv_bytes == sum(KV_BYTES)
    assert set(placement.loads) == {"cpu"}


def test_a_map_may_split_a_layer_and_name_device_zero() -> None:
    usable: dict[Device, int] = {0: 10**7, 1: 10**7, "cpu": 10**9}
    device_map = {"model": 0, "lm_head": "1", "model.layers.3.mlp": "cpu", "model.layers.4": "cuda:1"}
    placement = put(device_map, usable)
    assert placement.device_map["model.layers.3.mlp.up_proj"] == "cpu"
    assert placement.device_map["model.layers.3.self_attn.q_proj"] == 0
    assert placement.device_map["model.layers.4"] == 1
    assert placement.device_map["model.rotary_emb"] == 0
    assert placement.loads[1].kv_bytes == KV_BYTES[0]
    assert placement.loads[0].kv_bytes == 11 * KV_BYTES[0]


def test_a_map_that_ends_on_one_device_is_one_entry() -> None:
    assert put({"model": "cpu", "lm_head": "cpu"}, {"cpu": 10**9}).device_map == {"": "cpu"}


@pytest.mark.parametrize(
    ("device_map", "says"),
    [
        ({"model.layer": "cpu", "": "cpu"}, "the model has no module model.layer"),
        ({"model": "cpu"}, r"no device is given for lm_head.weight and 0 more"),
        ({"": "cpu", "lm_head": "cuda:2"}, r"there is no device cuda:2 here; there are cpu"),
        ("cuda", "there is no device cuda:0 here"),
    ],
)
def test_a_map_that_cannot_work_is_refused(device_map: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        put(device_map, {"cpu": 10**9})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoder_layers_are_found(architecture: str) -> None:
    drawn = blueprint(architecture, num_layers=4)
    assert sorted(drawn.layers) == [0, 1, 2, 3]
    assert all(drawn.model.get_submodule(name) for name in drawn.layers.values())
