from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig

from actors.engine.config import EngineConfig
from actors.engine.devices import Device
from actors.engine.errors import ConfigError, DoesNotFitError
from actors.engine.memory import (
    DeviceLoad,
    context_length,
    format_size,
    free_cgroup_memory,
    free_memory,
    kv_bytes_per_layer,
    parse_size,
    plan_blocks,
    reserved_blocks,
    usable_memory,
)
from tests.actors.engine.tiny_models import ARCHITECTURES

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [(5, 5), ("7", 7), ("1.5KB", 1500), ("10GiB", 10 * GIB), ("2 mib", 2**21), ("3G", 3 * 10**9), ("1TiB", 2**40)],
)
def test_sizes_are_read(text: int | str, num_bytes: int) -> None:
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "ten", "10XB", "-1GB", "1.2.3MB", "10iB"])
def test_a_bad_size_names_its_field(text: str) -> None:
    with pytest.raises(ConfigError, match="max_memory: a size such as 10GiB"):
        parse_size(text)


def test_sizes_are_written_for_people() -> None:
    assert [format_size(n) for n in (12, 1536, 3 * 2**20, 5 * GIB)] == ["12 B", "1.5 KiB", "3.0 MiB", "5.0 GiB"]


def cgroup(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content)
    return root


V2 = {"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 500\ninactive_file 150\n"}
V1 = {
    "memory/memory.limit_in_bytes": "1000",
    "memory/memory.usage_in_bytes": "700",
    "memory/memory.stat": "cache 3\ntotal_inactive_file 50\n",
}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        (V2, 450),
        (V1, 350),
        ({**V2, "memory.max": "max"}, None),
        ({**V2, "memory.current": "2000"}, 0),
        ({**V2, "memory.stat": ""}, 300),
    ],
)
def test_a_containers_limit_is_respected(tmp_path: Path, files: dict[str, str], free: int | None) -> None:
    assert free_cgroup_memory(cgroup(tmp_path, files)) == free


def test_this_hosts_memory_is_read() -> None:
    assert free_memory()["cpu"] > 0


def test_a_share_of_free_memory_is_used_and_caps_are_kept() -> None:
    free: dict[Device, int] = {0: 1000, 1: 1000, "cpu": 2000}
    assert usable_memory(free, None) == {0: 900, 1: 900, "cpu": 1800}
    assert usable_memory(free, {"0": "500B", 1: 10**9, "cpu": 0}) == {0: 500, 1: 1000, "cpu": 0}
    with pytest.raises(ConfigError, match=r"max_memory: there is no device 3 here; there are cuda:0, cuda:1, cpu"):
        usable_memory(free, {3: "1GB"})


@pytest.mark.parametrize(
    ("architecture", "per_layer"),
    [
        ("llama", (2 * 2 * 16 * 2,) * 3),  # 2 kv heads, keys and values, head_dim 16, 2 bytes
        ("gemma2", (2 * 2 * 16 * 2,) * 4),  # windows count in full
        ("gpt2", (4 * 2 * 16 * 2,) * 3),  # no grouping
        ("mamba", (0, 0)),
    ],
)
def test_kv_bytes_of_each_layer(architecture: str, per_layer: tuple[int, ...]) -> None:
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture])
    assert kv_bytes_per_layer(config, 2) == per_layer


def test_kv_bytes_of_uneven_models() -> None:
    config = SimpleNamespace(num_hidden_layers=3, num_attention_heads=4, hidden_size=64, qk_head_dim=24, v_head_dim=16)
    assert kv_bytes_per_layer(config, 1) == (4 * 40,) * 3
    config.layer_types = ["full_attention", "linear_attention", "sliding_attention"]
    assert kv_bytes_per_layer(config, 1) == (160, 0, 160)


def test_the_context_is_the_models_or_a_shorter_one() -> None:
    model = SimpleNamespace(max_position_embeddings=512)
    assert context_length(model, EngineConfig()) == 512
    assert context_length(model, EngineConfig(max_model_len=100)) == 100
    assert context_length(SimpleNamespace(), EngineConfig()) == 4096
    with pytest.raises(ConfigError, match=r"max_model_len: the model's context is 512 tokens, but 513"):
        context_length(model, EngineConfig(max_model_len=513))


@pytest.mark.parametrize(
    ("engine", "usable", "blocks"),
    [
        ({"num_blocks": 7}, {"cpu": 10**9}, (7,)),
        ({"kv_cache_memory": 32 * 10 * 5}, {"cpu": 10**9}, (5,)),
        ({}, {"cpu": 10**9}, (64 * 8192 // 32, 128)),  # all sequences at full length are the most
        ({}, {"cpu": 3200 * 1000}, (1000, 128)),  # a tenth of the memory, at least 4096 tokens
        ({}, {0: 3200 * 600, 1: 3200 * 400, "cpu": 10**9}, (1000, 128)),  # RAM does not count beside GPUs
        ({}, {"cpu": 3200}, (128,)),
        ({"max_model_len": 8000}, {"cpu": 3200}, (250,)),  # at least the sequence asked for
    ],
)
def test_room_is_kept_for_the_cache_while_layers_are_placed(
    engine: dict[str, Any], usable: dict[Device, int], blocks: tuple[int, ...]
) -> None:
    context = engine.get("max_model_len", 8192)
    assert reserved_blocks(EngineConfig(**engine), context, 10, usable) == blocks


def load(usable: int, weights: int, kv_bytes: int) -> DeviceLoad:
    return DeviceLoad(usable=usable, weights=weights, kv_bytes=kv_bytes)


@pytest.mark.parametrize(
    ("engine", "loads", "blocks", "note"),
    [
        ({}, {0: load(100_000, 36_000, 10)}, 200, ""),  # all that weights leave on a GPU
        ({}, {0: load(100_000, 36_000, 10), 1: load(90_000, 10_000, 5)}, 200, ""),  # the tightest device decides
        ({}, {0: load(100_000, 36_000, 10), "cpu": load(50_000, 50_000, 0)}, 200, ""),  # no cache where layers rest
        ({}, {"cpu": load(128_000, 1000, 10)}, 100, ""),  # a quarter of RAM
        ({}, {"cpu": load(10**9, 1000, 10)}, 4 * 32, ""),  # but not more than all sequences can use
        ({}, {"cpu": load(40_000, 1000, 10)}, 32, ""),  # or one sequence, where that is more
        ({}, {"cpu": load(128_000, 118_400, 10)}, 30, "holds 960 tokens"),
        ({"num_blocks": 3}, {"cpu": load(128_000, 1000, 10)}, 3, "holds 96 tokens"),
        ({"kv_cache_memory": 32_000}, {"cpu": load(128_000, 1000, 10)}, 100, ""),
        ({}, {"cpu": load(128_000, 1000, 0)}, 4 * 32, ""),  # a model without attention
        ({"num_blocks": 9, "max_model_len": 1024}, {"cpu": load(128_000, 1000, 10)}, 9, "holds 288 tokens"),
    ],
)
def test_blocks_are_planned(engine: dict[str, Any], loads: dict[Device, DeviceLoad], blocks: int, note: str) -> None:
    num_blocks, said = plan_blocks(EngineConfig(max_num_seqs=4, **engine), 1024, loads)
    assert num_blocks == blocks
    assert (note in said) if note else not said


@pytest.mark.parametrize(
    ("engine", "loads", "says"),
    [
        ({}, {0: load(10_000, 20_000, 10)}, r"cuda:0: weights of 19.5 KiB and a KV cache of 320 B"),
        ({"num_blocks": 1000}, {"cpu": load(10_000, 2000, 10)}, r"cpu: .* \(32000 tokens\) .* 9.8 KiB may be used"),
        ({"kv_cache_memory": 64_000}, {"cpu": load(64_000, 2000, 10)}, "Lower num_blocks"),
        ({"kv_cache_memory": 100}, {"cpu": load(64_000, 2000, 10)}, "room for 0 tokens, but at least 32"),
        ({"max_model_len": 1024}, {"cpu": load(12_000, 2000, 10)}, r"KV cache of 10.0 KiB \(1024 tokens\)"),
        (
            {"max_model_len": 1024, "kv_cache_memory": 10_000},
            {"cpu": load(40_000, 2000, 10)},
            "room for 992 tokens, but at least 1024",
        ),
    ],
)
def test_what_does_not_fit_is_refused(engine: dict[str, Any], loads: dict[Device, DeviceLoad], says: str) -> None:
    with pytest.raises(DoesNotFitError, match=says):
        plan_blocks(EngineConfig(max_num_seqs=4, **engine), 1024, loads)
