"""Loads a model onto its devices: find, check, plan, and only then take memory."""

import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from actors.engine.auto_model import auto_class
from actors.engine.blueprint import Blueprint
from actors.engine.catalog import Checkpoint, fetch_weights, find_checkpoint
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.devices import OFFLOADED, Device, execution_devices
from actors.engine.errors import ConfigError, DoesNotFitError
from actors.engine.load_plan import PAGED, plan_load
from actors.engine.loaded import LoadedModel
from actors.engine.memory import free_memory
from actors.engine.placement import Placement
from actors.engine.quantized_head import quantize_head
from actors.engine.tokenizer import check_vocabulary, load_tokenizer

logger = logging.getLogger(__name__)


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
    plan = plan_load(config, engine, checkpoint, model_config, read_free_memory())
    blueprint = plan.blueprint
    if tokenizer is not None:
        check_vocabulary(tokenizer, blueprint.num_embeddings)
    fetch_weights(checkpoint)
    model = _materialize(config, checkpoint, model_config, plan.dtype, blueprint, plan.placement)
    if config.quantize_head:
        quantize_head(model, config.quantization, double=config.double_quant)
    for text in plan.notes:
        logger.warning("%s: %s", config.model, text)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        generation_config=generation_config,
        num_blocks=plan.num_blocks,
        weight_bytes=sum(blueprint.sizes.values()),
        kv_bytes_per_token=plan.kv_bytes_per_token,
        layer_devices=execution_devices(model, blueprint.layers),
        notes=plan.notes,
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
        model: PreTrainedModel = auto_class(model_config).from_pretrained(
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
