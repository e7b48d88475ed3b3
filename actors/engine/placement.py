"""Which device each layer goes to, with room for its KV cache.

While accelerate's strategies place layers, each decoder layer carries one more tensor, as large as its part of the KV
cache. So the cache is counted where it will lie, and layers spread as they must.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.integrations.accelerate import get_balanced_memory, infer_auto_device_map

from actors.engine.blueprint import Blueprint
from actors.engine.config import DEVICE_MAPS
from actors.engine.devices import OFFLOADED, Device, device_names, main_device, parse_device
from actors.engine.errors import ConfigError, DoesNotFitError
from actors.engine.memory import DeviceLoad, format_size

_RESERVE = "reserved_for_kv_cache"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where everything goes.

    Attributes:
        device_map: module name to device, covering every tensor; one entry (``""``) where all is on one device.
        loads: memory of each device that holds weights or KV cache.
    """

    device_map: dict[str, Device]
    loads: dict[Device, DeviceLoad]

    @property
    def devices(self) -> set[Device]:
        """Devices of the map, ``disk`` included."""
        return set(self.device_map.values())


def place(
    blueprint: Blueprint,
    device_map: str | Mapping[str, int | str],
    usable: Mapping[Device, int],
    kv_bytes: tuple[int, ...],
    num_reserved_tokens: Sequence[int],
    *,
    can_use_disk: bool,
) -> Placement:
    """Turn a strategy, a device or a map into a device for every module.

    Args:
        blueprint: the model.
        device_map: as in :class:`actors.engine.config.ModelConfig`.
        usable: bytes that may be taken on each device.
        kv_bytes: of one token, in each layer.
        num_reserved_tokens: tokens of KV cache for which a strategy leaves room; the first of them that needs no
            offloading, else the last.
        can_use_disk: whether a strategy may put layers on disk.

    Raises:
        ConfigError: the map names a module or device that is not there, or leaves tensors out.
        DoesNotFitError: no strategy can place the model.
    """
    if isinstance(device_map, Mapping):
        placed = _follow_map(blueprint, device_map)
    elif device_map in DEVICE_MAPS:
        placed = _first_without_offloading(blueprint, device_map, usable, kv_bytes, num_reserved_tokens, can_use_disk)
    else:
        placed = {"": parse_device(device_map)}
    if len(set(placed.values())) == 1 and "disk" not in placed.values():
        placed = {"": next(iter(placed.values()))}
    missing = sorted(set(placed.values()) - {*usable, "disk"}, key=str)
    if missing:
        raise ConfigError(
            f"device_map: there is no device {device_names(missing)} here; there are {device_names(usable)}"
        )
    return Placement(device_map=placed, loads=_loads(blueprint, placed, usable, kv_bytes))


def _follow_map(blueprint: Blueprint, device_map: Mapping[str, int | str]) -> dict[str, Device]:
    """Spell a map out to whole decoder layers and, outside of them, to single modules.

    transformers and accelerate read a name that ends in the middle of another (``layers.1`` of ``layers.10``)
    differently; with every module spelt out there is nothing to read.
    """
    names = {name for name, _ in blueprint.model.named_modules()}
    unknown = sorted(set(device_map) - names)
    if unknown:
        raise ConfigError(f"device_map: the model has no module {', '.join(unknown)}")
    devices = {name: parse_device(value) for name, value in device_map.items()}

    def device_of(tensor: str) -> Device | None:
        parts = tensor.split(".")
        covering = (".".join(parts[:length]) for length in range(len(parts), -1, -1))
        return next((devices[name] for name in covering if name in devices), None)

    without = sorted(name for name in blueprint.sizes if device_of(name) is None)
    weights = [name for name in without if name in blueprint.model.state_dict()]
    if weights:
        raise ConfigError(f"device_map: no device is given for {weights[0]} and {len(weights) - 1} more tensors")
    main = main_device(devices.values())

    def device_or_main(tensor: str) -> Device:
        device = device_of(tensor)
        return main if device is None else device

    return dict(_units(blueprint, device_or_main))


def _units(blueprint: Blueprint, device_of: Callable[[str], Device]) -> Iterator[tuple[str, Device]]:
    """Yield decoder layers that are on one device, every other module that holds tensors itself, and root tensors."""
    whole = set()
    tensors = [name for name, _ in (*blueprint.model.named_parameters(), *blueprint.model.named_buffers())]
    for layer in blueprint.layers.values():
        found = {device_of(name) for name in tensors if name.startswith(f"{layer}.")}
        if len(found) == 1:
            whole.add(layer)
            yield layer, found.pop()
    for name, module in blueprint.model.named_modules():
        if any(name == layer or name.startswith(f"{layer}.") for layer in whole):
            continue
        own = [key for key, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))]
        if own and name:
            yield name, device_of(f"{name}.{own[0]}")
        elif own:  # the root's name is empty and would stand for the whole model
            yield from ((key, device_of(key)) for key in own)


def _first_without_offloading(
    blueprint: Blueprint,
    strategy: str,
    usable: Mapping[Device, int],
    kv_bytes: tuple[int, ...],
    num_reserved_tokens: Sequence[int],
    can_use_disk: bool,
) -> dict[str, Device]:
    """Place with less and less room for KV cache, until no layer has to be offloaded for it."""
    accelerators = {device: size for device, size in usable.items() if device not in OFFLOADED and size > 0}
    if not accelerators and (sum(blueprint.sizes.values()) <= usable["cpu"] or not can_use_disk):
        return {"": "cpu"}
    for tokens in num_reserved_tokens:
        reserve = [size * tokens for size in kv_bytes]
        placed = _follow_strategy(blueprint, strategy, accelerators, usable["cpu"], reserve)
        if accelerators and set(placed.values()).isdisjoint(OFFLOADED):
            break
    if "disk" in placed.values() and not can_use_disk:
        sizes = ", ".join(f"{device_names([device])} {format_size(size)}" for device, size in usable.items())
        raise DoesNotFitError(
            f"weights of {format_size(sum(blueprint.sizes.values()))} and a KV cache of {format_size(sum(reserve))} "
            f"do not fit what may be used: {sizes}. Quantize (nf4), lower num_blocks or max_model_len, raise "
            "max_memory, add devices, or set offload_folder to let layers go to disk"
        )
    return placed


def _follow_strategy(
    blueprint: Blueprint, strategy: str, accelerators: Mapping[Device, int], ram: int, reserve: list[int]
) -> dict[str, Device]:
    """Place by one of accelerate's strategies, the KV cache of offloaded layers counted on the main device."""
    main = main_device(accelerators)
    elsewhere = 0  # bytes of KV cache on the main device for layers that are offloaded
    with _cache_on_layers(blueprint, reserve):
        for _ in range(len(reserve) + 1):
            budgets = {**accelerators, "cpu": ram}
            budgets[main] = max(0, budgets[main] - elsewhere)
            placed = _infer(blueprint, strategy, budgets)
            offloaded = sum(size for index, size in enumerate(reserve) if _is_offloaded(blueprint, placed, index, main))
            if offloaded <= elsewhere:
                break
            elsewhere = offloaded
    return placed


def _infer(blueprint: Blueprint, strategy: str, budgets: Mapping[Device, int]) -> dict[str, Device]:
    model, quantizer = blueprint.model, blueprint.quantizer
    no_split = set(model._no_split_modules or ())
    memory: dict[Any, Any] = dict(budgets)
    if strategy != "sequential":
        is_low = strategy == "balanced_low_0"
        memory = get_balanced_memory(model, memory, no_split, hf_quantizer=quantizer, low_zero=is_low)
    if quantizer is not None:
        memory = quantizer.adjust_max_memory(memory)
    return dict(infer_auto_device_map(model, memory, no_split, hf_quantizer=quantizer))


@contextmanager
def _cache_on_layers(blueprint: Blueprint, reserve: list[int]) -> Iterator[None]:
    """Within the block, each decoder layer carries a tensor as large as its KV cache."""
    layers = [blueprint.model.get_submodule(name) for name in blueprint.layers.values()]
    for layer, size in zip(layers, reserve, strict=True):
        tensor = torch.empty(size, dtype=torch.uint8, device="meta")
        layer.register_parameter(_RESERVE, nn.Parameter(tensor, requires_grad=False))
    try:
        yield
    finally:
        for layer in layers:
            del layer._parameters[_RESERVE]


def _is_offloaded(blueprint: Blueprint, placed: Mapping[str, Device], index: int, main: Device) -> bool:
    device = _device_in(placed, blueprint.layers[index])
    return device == "disk" or (device == "cpu" and main != "cpu")


def _device_in(placed: Mapping[str, Device], name: str) -> Device:
    """Device of a module or tensor in a complete map; of its first part, where a module is split."""
    parts = name.split(".")
    for length in range(len(parts), -1, -1):
        if (covering := ".".join(parts[:length])) in placed:
            return placed[covering]
    return next(device for key, device in placed.items() if key.startswith(f"{name}."))


def _loads(
    blueprint: Blueprint, placed: Mapping[str, Device], usable: Mapping[Device, int], kv_bytes: tuple[int, ...]
) -> dict[Device, DeviceLoad]:
    """Sum weights and KV cache by device. Layers on a CPU beside accelerators are not quantized."""
    main = main_device(placed.values())
    weights: dict[Device, int] = {}
    for name, size in blueprint.sizes.items():
        device = _device_in(placed, name)
        if device == "cpu" and main != "cpu":
            size = blueprint.plain_sizes.get(name, size)
        if device != "disk":
            weights[device] = weights.get(device, 0) + size
    cache: dict[Device, int] = {}
    for index, name in blueprint.layers.items():
        device = _device_in(placed, name)
        runs_on = main if device in OFFLOADED else device
        cache[runs_on] = cache.get(runs_on, 0) + kv_bytes[index]
    return {
        device: DeviceLoad(usable=usable[device], weights=weights.get(device, 0), kv_bytes=cache.get(device, 0))
        for device in {**weights, **cache}
    }
