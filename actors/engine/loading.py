"""Loads a model onto its devices: find, check, plan, and only then take memory."""

import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from actors.engine.blueprint import Blueprint, draw_blueprint
from actors.engine.catalog import Checkpoint, fetch_weights, find_checkpoint
from actors.engine.config import DEVICE_MAPS, EngineConfig, ModelConfig
from actors.engine.devices import OFFLOADED, Device, execution_devices, main_device, parse_device
from actors.engine.errors import ConfigError, DoesNotFitError
from actors.engine.loaded import LoadedModel
from actors.engine.memory import (
    context_length,
    free_memory,
    kv_bytes_per_layer,
    plan_blocks,
    reserved_blocks,
    usable_memory,
)
from actors.engine.placement import Placement, place
from actors.engine.quantization import asked_quantization, check_devices, check_stored, override_compute_dtype
from actors.engine.tokenizer import check_vocabulary, load_tokenizer

logger = logging.getLogger(__name__)

PAGED = "paged"  # the engine's own attention, switched on by the engine itself
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_model(
    config: ModelConfig, engine: EngineConfig, *, read_free_memory: Callable[[], Mapping[Device, int]] = free_memory
) -> LoadedModel:
    """Load a model, its tokenizer and its generation defaults, and plan its KV cache.

    Every error below is raised before memory for weights is taken and before a hub id's weights are fetched.

    Args:
        config: the model and how it is put on its devices.
        engine: bounds of the KV cache.
        read_free_memory: bytes that are free on each device.

    Raises:
        ModelNotFoundError: there is no such model.
        QuantizationError: the quantization contradicts the checkpoint or the devices.
        DoesNotFitError: weights and KV cache exceed what is free.
        VocabularyError: the tokenizer has ids that the model does not know.
        ConfigError: anything else that cannot work.
    """
    checkpoint = find_checkpoint(config.model, config.revision)
    model_config = read_model_config(checkpoint)
    tokenizer = load_tokenizer(config, checkpoint)
    generation_config = read_generation_config(checkpoint, model_config, config.generation)
    dtype = choose_dtype(config, checkpoint, model_config)
    usable = usable_memory(read_free_memory(), config.max_memory)
    blueprint = _draw(config, checkpoint, model_config, dtype, usable)
    if tokenizer is not None:
        check_vocabulary(tokenizer, blueprint.num_embeddings)
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
    notes = [*blueprint.notes, *([note] if note else []), *_offload_notes(placement)]
    fetch_weights(checkpoint)
    model = _materialize(config, checkpoint, model_config, dtype, blueprint, placement)
    for text in notes:
        logger.warning("%s: %s", config.model, text)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        generation_config=generation_config,
        num_blocks=num_blocks,
        weight_bytes=sum(blueprint.sizes.values()),
        kv_bytes_per_token=sum(kv_bytes),
        layer_devices=execution_devices(model, blueprint.layers),
        notes=tuple(notes),
    )


def read_model_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    """Read a checkpoint's configuration. Raises ConfigError where the model needs code of its own or is unknown."""
    raw = checkpoint.read_config()
    model_type = raw.get("model_type")
    if model_type not in CONFIG_MAPPING:
        reason = (
            "it needs code of its own (auto_map in config.json), and remote code is never run"
            if "auto_map" in raw
            else f"this version of transformers does not know its model_type {model_type!r}"
        )
        raise ConfigError(f"model {checkpoint.name!r}: {reason}")
    try:
        model_config: PreTrainedConfig = AutoConfig.from_pretrained(str(checkpoint.folder), trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ConfigError(f"model {checkpoint.name!r}: config.json: {error}") from error
    if getattr(model_config, "is_encoder_decoder", False):
        raise ConfigError(f"model {checkpoint.name!r}: {model_type} is an encoder-decoder, not a causal language model")
    return model_config


def read_generation_config(
    checkpoint: Checkpoint, model_config: PreTrainedConfig, overrides: Mapping[str, Any] | None
) -> GenerationConfig:
    """Merge generation defaults over the model's own. Raises ConfigError naming an unknown field."""
    if (checkpoint.folder / "generation_config.json").is_file():
        own = GenerationConfig.from_pretrained(str(checkpoint.folder))
    else:
        own = GenerationConfig.from_model_config(model_config)
    try:
        unknown = own.update(**(overrides or {}))
    except ValueError as error:
        raise ConfigError(f"generation: {error}") from error
    if unknown:
        raise ConfigError(f"generation: GenerationConfig has no field {', '.join(sorted(unknown))}")
    return own


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


def _materialize(
    config: ModelConfig,
    checkpoint: Checkpoint,
    model_config: PreTrainedConfig,
    dtype: torch.dtype,
    blueprint: Blueprint,
    placement: Placement,
) -> PreTrainedModel:
    """Read the weights onto their devices."""
    own_folder = None
    if config.offload_folder is None and "disk" in placement.devices:
        own_folder = tempfile.mkdtemp(prefix="slipstream-offload-")
    quantization = blueprint.quantization
    if quantization is not None and len(placement.devices) > 1 and not placement.devices.isdisjoint(OFFLOADED):
        quantization.llm_int8_enable_fp32_cpu_offload = True
    extra: dict[str, Any] = {}
    if config.attn_implementation != PAGED:
        extra["attn_implementation"] = config.attn_implementation
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(checkpoint.folder),
            config=model_config,
            dtype=dtype,
            device_map=dict(placement.device_map),
            quantization_config=quantization,
            offload_folder=config.offload_folder or own_folder,
            use_safetensors=True,
            trust_remote_code=False,
            **extra,
        )
    except torch.OutOfMemoryError as error:
        raise DoesNotFitError(f"model {config.model!r}: memory ran out while weights were read: {error}") from error
    except BaseException:
        if own_folder is not None:
            shutil.rmtree(own_folder, ignore_errors=True)
        raise
    if own_folder is not None:
        weakref.finalize(model, shutil.rmtree, own_folder, ignore_errors=True)
    return model
