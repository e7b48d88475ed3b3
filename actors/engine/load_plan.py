"""How a model will lie in memory: which device holds which layer and how much KV cache fits beside them.

All of it is worked out from a configuration before any weight is read or fetched.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig

from actors.engine.blueprint import Blueprint, draw_blueprint
from actors.engine.catalog import Checkpoint
from actors.engine.config import DEVICE_MAPS, EngineConfig, ModelConfig
from actors.engine.devices import OFFLOADED, Device, main_device, parse_device
from actors.engine.memory import context_length, kv_bytes_per_layer, plan_blocks, reserved_blocks, usable_memory
from actors.engine.placement import Placement, place
from actors.engine.quantization import asked_quantization, check_devices, check_stored, override_compute_dtype

PAGED = "paged"  # the engine's own attention, switched on by the engine itself
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """How a model will lie in memory.

    Attributes:
        blueprint: the model without its weights.
        dtype: of what is not quantized.
        context: the longest sequence in tokens.
        kv_bytes_per_token: over all layers.
        placement: module to device, and the load of each device.
        num_blocks: KV blocks beside the weights.
        notes: what a person should know.
    """

    blueprint: Blueprint
    dtype: torch.dtype
    context: int
    kv_bytes_per_token: int
    placement: Placement
    num_blocks: int
    notes: tuple[str, ...]


def plan_load(
    config: ModelConfig,
    engine: EngineConfig,
    checkpoint: Checkpoint,
    model_config: PreTrainedConfig,
    free: Mapping[Device, int],
) -> LoadPlan:
    """Plan where a model goes and how much KV cache fits beside it. Needs its configuration, but none of its weights.

    Args:
        config: the model and how it is put on its devices.
        engine: bounds of the KV cache.
        checkpoint: where the model is.
        model_config: its configuration.
        free: bytes that are free on each device.

    Raises:
        QuantizationError: the quantization contradicts the checkpoint or the devices.
        DoesNotFitError: weights and KV cache exceed what is free.
        ConfigError: anything else that cannot work.
    """
    dtype = choose_dtype(config, checkpoint, model_config)
    usable = usable_memory(free, config.max_memory)
    blueprint = _draw(config, checkpoint, model_config, dtype, usable)
    text_config = model_config.get_text_config()
    kv_bytes = kv_bytes_per_layer(text_config, dtype.itemsize)
    context = context_length(text_config, engine)
    placement = place(
        blueprint,
        config.device_map,
        usable,
        kv_bytes,
        [blocks * engine.block_size for blocks in reserved_blocks(engine, context, sum(kv_bytes), usable)],
        can_use_disk=config.offload_folder is not None,
    )
    _check_quantized_map(blueprint, placement)
    num_blocks, note = plan_blocks(engine, context, placement.loads)
    return LoadPlan(
        blueprint=blueprint,
        dtype=dtype,
        context=context,
        kv_bytes_per_token=sum(kv_bytes),
        placement=placement,
        num_blocks=num_blocks,
        notes=(*blueprint.notes, *([note] if note else []), *_offload_notes(placement)),
    )


def choose_dtype(config: ModelConfig, checkpoint: Checkpoint, model_config: PreTrainedConfig) -> torch.dtype:
    """Return the dtype asked for, else the one config.json names, else the one weights on disk have, else float32."""
    dtype: torch.dtype
    if config.dtype != "auto":
        dtype = getattr(torch, config.dtype)
        return dtype
    for candidate in (model_config, model_config.get_text_config()):
        named = getattr(candidate, "dtype", None)
        if named is not None:
            dtype = getattr(torch, named) if isinstance(named, str) else named
            return dtype
    file = checkpoint.folder / checkpoint.weight_files()[0]
    if file.is_file():
        with safe_open(str(file), framework="pt") as weights:
            kinds = [weights.get_slice(name).get_dtype() for name in weights.keys()]  # noqa: SIM118 - not a mapping
        return next((_DTYPES[kind] for kind in kinds if kind in _DTYPES), torch.float32)
    return torch.float32


def _draw(
    config: ModelConfig,
    checkpoint: Checkpoint,
    model_config: PreTrainedConfig,
    dtype: torch.dtype,
    usable: Mapping[Device, int],
) -> Blueprint:
    asked = asked_quantization(config, dtype)
    check_stored(config.model, checkpoint.read_config().get("quantization_config"), asked)
    override_compute_dtype(getattr(model_config, "quantization_config", None), config)
    attention = None if config.attn_implementation == PAGED else config.attn_implementation
    return draw_blueprint(
        config.model,
        model_config,
        dtype,
        asked,
        is_cpu_only=_is_cpu_only(config.device_map, usable),
        attn_implementation=attention,
    )


def _is_cpu_only(device_map: str | Mapping[str, int | str], usable: Mapping[Device, int]) -> bool:
    if isinstance(device_map, str) and device_map in DEVICE_MAPS:
        return all(device in OFFLOADED or size == 0 for device, size in usable.items())
    values = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    return all(parse_device(value) in OFFLOADED for value in values)


def _check_quantized_map(blueprint: Blueprint, placement: Placement) -> None:
    """Raise QuantizationError where quantized layers cannot go where they were placed."""
    quantizer = blueprint.quantizer
    if quantizer is not None:
        check_devices(quantizer.quantization_config, placement.devices, is_stored=quantizer.pre_quantized)


def _offload_notes(placement: Placement) -> list[str]:
    main = main_device(placement.devices)
    offloaded = sorted(str(device) for device in placement.devices if device in OFFLOADED and device != main)
    return [f"layers on {' and '.join(offloaded)} are brought in for every step, which is slow"] if offloaded else []
