"""How much memory there is, and how many KV blocks fit beside the weights. Arithmetic on bytes; no model is touched."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from actors.engine.config import EngineConfig
from actors.engine.devices import OFFLOADED, Device, device_names
from actors.engine.errors import ConfigError, DoesNotFitError

USABLE_SHARE = 0.9  # of what is free; the rest is for activations, fragments and what others take meanwhile
CPU_CACHE_SHARE = 0.25  # of the RAM that may be used, since it is shared with other processes
RESERVED_SHARE = 0.1  # of the memory for layers, kept for KV blocks where nothing was asked for
MIN_RESERVED_TOKENS = 4096  # of context, however long the model's may be

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", re.IGNORECASE)
_CGROUP_FILES = (  # limit, usage, statistics: version 2, then version 1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
_ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention", "attention"})


def parse_size(value: int | str, field: str = "max_memory") -> int:
    """Return bytes, from a count or from text such as ``10GiB``, ``500MB``. Raises ConfigError naming ``field``."""
    if isinstance(value, int):
        return value
    match = _SIZE.fullmatch(value)
    if match is None or match[2].upper() not in _UNITS:
        raise ConfigError(f"{field}: a size such as 10GiB or 500MB is needed, not {value!r}")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def format_size(num_bytes: float) -> str:
    """Return bytes for people, in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"


def free_cgroup_memory(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return bytes left under the container's limit (cgroup v2, else v1), or None where there is no limit.

    File pages that the kernel would give up at once (``inactive_file``) count as free: a model's files, just read, are
    among them.
    """
    for names in _CGROUP_FILES:
        try:
            limit, usage, statistics = ((root / name).read_text().strip() for name in names)
        except OSError:
            continue
        if limit != "max":
            evictable = re.search(r"^(?:total_)?inactive_file (\d+)$", statistics, re.MULTILINE)
            return max(0, int(limit) - int(usage) + (int(evictable[1]) if evictable else 0))
    return None


def free_memory() -> dict[Device, int]:
    """Return free bytes of each CUDA device by index, and of the host as ``cpu`` (its container's limit included)."""
    free: dict[Device, int] = {index: torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())}
    available = int(psutil.virtual_memory().available)
    in_container = free_cgroup_memory()
    free["cpu"] = available if in_container is None else min(available, in_container)
    return free


def usable_memory(free: Mapping[Device, int], max_memory: Mapping[Device, int | str] | None) -> dict[Device, int]:
    """Return bytes that weights and KV cache may take: a share of what is free, under the caller's caps.

    A device that ``max_memory`` leaves out keeps its own; a cap of 0 excludes one. Raises ConfigError for a device that
    is not there.
    """
    usable = {device: int(size * USABLE_SHARE) for device, size in free.items()}
    for key, value in (max_memory or {}).items():
        device = int(key) if isinstance(key, str) and key.isdigit() else key
        if device not in usable:
            raise ConfigError(f"max_memory: there is no device {key!r} here; there are {device_names(free)}")
        usable[device] = min(free[device], parse_size(value))
    return usable


def kv_bytes_per_layer(text_config: Any, element_size: int) -> tuple[int, ...]:
    """Return bytes of keys and values of one token, for each layer by index; 0 for layers without attention.

    Sliding-window layers count in full: the paged cache keeps what a window has passed until the sequence ends.

    Args:
        text_config: configuration of the text model.
        element_size: bytes of one number in the cache.
    """
    num_layers = int(text_config.num_hidden_layers)
    num_heads = getattr(text_config, "num_attention_heads", None)
    if not num_heads:
        return (0,) * num_layers
    num_kv_heads = getattr(text_config, "num_key_value_heads", None) or num_heads
    head_dim = getattr(text_config, "head_dim", None) or text_config.hidden_size // num_heads
    # Multi-head latent attention hands keys and values of different widths to the attention function.
    key_dim = getattr(text_config, "qk_head_dim", None) or head_dim
    value_dim = getattr(text_config, "v_head_dim", None) or head_dim
    size = num_kv_heads * (key_dim + value_dim) * element_size
    kinds = getattr(text_config, "layer_types", None) or ["full_attention"] * num_layers
    return tuple(size if kind in _ATTENTION_LAYERS else 0 for kind in kinds[:num_layers])


def context_length(text_config: Any, engine: EngineConfig) -> int:
    """Return the longest sequence in tokens. Raises ConfigError where ``max_model_len`` exceeds the model's context."""
    own = getattr(text_config, "max_position_embeddings", None)
    asked = engine.max_model_len
    if asked is not None and own and asked > own:
        raise ConfigError(f"max_model_len: the model's context is {own} tokens, but {asked} are asked for")
    return int(asked or own or MIN_RESERVED_TOKENS)


def reserved_blocks(engine: EngineConfig, context: int, kv_bytes: int, usable: Mapping[Device, int]) -> tuple[int, ...]:
    """Return KV blocks to keep room for while layers are placed: a first choice, then what to settle for.

    What was asked for is the only choice. Else a tenth of the accelerators' memory (of the RAM where there are none),
    but no more than all sequences at full length; and where layers would have to be offloaded for that, one sequence:
    of the context that was asked for, or of 4096 tokens.

    Args:
        engine: bounds.
        context: tokens a sequence.
        kv_bytes: of one token over all layers.
        usable: bytes by device.
    """
    if engine.num_blocks is not None:
        return (engine.num_blocks,)
    block_bytes = max(1, kv_bytes * engine.block_size)
    if engine.kv_cache_memory is not None:
        return (engine.kv_cache_memory // block_bytes,)
    shortest = context if engine.max_model_len is not None else min(context, MIN_RESERVED_TOKENS)
    least = blocks_for(shortest, engine)
    total = sum(size for device, size in usable.items() if device not in OFFLOADED) or usable["cpu"]
    share = min(int(total * RESERVED_SHARE) // block_bytes, engine.max_num_seqs * blocks_for(context, engine))
    return (share, least) if share > least else (least,)


def blocks_for(num_tokens: int, engine: EngineConfig) -> int:
    """Return blocks that hold ``num_tokens`` of one sequence."""
    return -(-num_tokens // engine.block_size)


@dataclass(frozen=True, kw_only=True)
class DeviceLoad:
    """One device in a memory plan.

    Attributes:
        usable: bytes that weights and cache may take together.
        weights: bytes of weights.
        kv_bytes: of one token, over the layers whose cache lies here.
    """

    usable: int
    weights: int
    kv_bytes: int


def plan_blocks(engine: EngineConfig, context: int, loads: Mapping[Device, DeviceLoad]) -> tuple[int, str]:
    """Return the number of KV blocks, and a note for people (empty where all went as asked).

    Args:
        engine: bounds.
        context: tokens a sequence.
        loads: every device that holds weights or cache.

    Raises:
        DoesNotFitError: what was asked for, or one block, does not fit beside the weights.
    """
    kv_bytes = sum(load.kv_bytes for load in loads.values())
    most = engine.max_num_seqs * blocks_for(context, engine)
    if engine.num_blocks is not None or kv_bytes == 0:
        num_blocks = engine.num_blocks or most
    elif engine.kv_cache_memory is not None:
        num_blocks = engine.kv_cache_memory // (kv_bytes * engine.block_size)
    else:
        num_blocks = min(_blocks_that_fit(engine, context, *item) for item in loads.items() if item[1].kv_bytes)
        if all(load.kv_bytes == 0 for device, load in loads.items() if device != "cpu"):
            num_blocks = min(num_blocks, most)
    one_sequence = blocks_for(context, engine)
    is_fixed = engine.num_blocks is not None
    least = 1 if is_fixed or engine.max_model_len is None else one_sequence
    _check_fit(engine, loads, max(num_blocks, least))
    if num_blocks < least:
        raise DoesNotFitError(
            f"the KV cache has room for {num_blocks * engine.block_size} tokens, but at least "
            f"{min(context, least * engine.block_size)} are needed; lower max_model_len, or raise kv_cache_memory "
            "or max_memory"
        )
    if num_blocks < one_sequence:
        tokens = num_blocks * engine.block_size
        return num_blocks, f"the KV cache holds {tokens} tokens, so no sequence can use the whole context of {context}"
    return num_blocks, ""


def _blocks_that_fit(engine: EngineConfig, context: int, device: Device, load: DeviceLoad) -> int:
    """Blocks beside the weights on one device; on a CPU its share of RAM, or one sequence where that is more."""
    block_bytes = load.kv_bytes * engine.block_size
    room = max(0, load.usable - load.weights) // block_bytes
    if device != "cpu":
        return room
    return min(room, max(int(load.usable * CPU_CACHE_SHARE) // block_bytes, blocks_for(context, engine)))


def _check_fit(engine: EngineConfig, loads: Mapping[Device, DeviceLoad], num_blocks: int) -> None:
    """Raise DoesNotFitError for the first device on which weights and ``num_blocks`` blocks exceed what may be used."""
    for device, load in loads.items():
        cache = num_blocks * engine.block_size * load.kv_bytes
        if load.weights + cache > load.usable:
            raise DoesNotFitError(
                f"{device_names([device])}: weights of {format_size(load.weights)} and a KV cache of "
                f"{format_size(cache)} ({num_blocks * engine.block_size} tokens) are needed, but "
                f"{format_size(load.usable)} may be used. "
                "Lower num_blocks, kv_cache_memory or max_model_len, quantize (nf4), raise max_memory, "
                "or give device_map more devices"
            )
