"""Which quantization a model is loaded with, and what bitsandbytes' kernels can do with it on the devices at hand.

Found by trying bitsandbytes 0.50.2 on a CPU with AVX-512: int8 takes any shape. The fused 4-bit kernel needs
``out_features`` in multiples of 32 and ``in_features`` in multiples of 64 (it raises otherwise), and the general one
dequantizes wrongly, without an error, for many ``in_features`` that are multiples of 16 but not of 64. So on a CPU,
4-bit is used where the shape suits and other layers keep their dtype. The fused kernel rounds its inputs to bfloat16,
whatever the compute dtype.
"""

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError, QuantizationError

CPU_IN_FEATURES = 64
CPU_OUT_FEATURES = 32

_EXPORTED = {"quant_method", "_load_in_4bit", "_load_in_8bit"}  # what BitsAndBytesConfig.to_dict adds to its fields


def asked_quantization(config: ModelConfig, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return the bitsandbytes configuration that a model configuration asks for, or None.

    Args:
        config: the model's configuration.
        dtype: of the model; 4-bit products are computed in it unless ``compute_dtype`` says otherwise.

    Raises:
        ConfigError: ``quantization_config`` has an unknown field or an impossible value.
    """
    compute_dtype = dtype if config.compute_dtype == "auto" else getattr(torch, config.compute_dtype)
    if config.quantization_config is not None:
        return _full_config(config.quantization_config)
    if config.quantization == "none":
        return None
    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization,
        bnb_4bit_use_double_quant=config.double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def _full_config(fields: Mapping[str, Any]) -> BitsAndBytesConfig:
    known = set(inspect.signature(BitsAndBytesConfig.__init__).parameters) - {"self", "kwargs"}
    unknown = sorted(set(fields) - known - _EXPORTED)
    if unknown:
        raise ConfigError(f"quantization_config: BitsAndBytesConfig has no field {', '.join(unknown)}")
    try:
        result = BitsAndBytesConfig(**{key: value for key, value in fields.items() if key in known})
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"quantization_config: {error}") from error
    if not (result.load_in_4bit or result.load_in_8bit):
        raise ConfigError("quantization_config: one of load_in_4bit and load_in_8bit must be true")
    return result


def check_stored(name: str, stored: Mapping[str, Any] | None, asked: BitsAndBytesConfig | None) -> None:
    """Check that what is asked for does not contradict what a checkpoint already is.

    Args:
        name: of the model.
        stored: ``quantization_config`` of its ``config.json``, or None.
        asked: what the model configuration asks for, or None.

    Raises:
        QuantizationError: it does.
    """
    if stored is None or asked is None:
        return
    is_bnb = stored.get("quant_method", "bitsandbytes") == "bitsandbytes"
    stored_kind = _kind(stored) if is_bnb else str(stored.get("quant_method"))
    asked_kind = _kind(asked.to_dict())
    if stored_kind != asked_kind:
        raise QuantizationError(
            f"model {name!r} is already quantized ({stored_kind}) and cannot be loaded as {asked_kind}; "
            "leave quantization at 'none' to load it as it is, or take the checkpoint it was made from"
        )


def override_compute_dtype(stored: Any, config: ModelConfig) -> None:
    """Set the compute dtype of a checkpoint stored in 4 bit, in place, where the model configuration names one."""
    if isinstance(stored, dict) and stored.get("load_in_4bit") and config.compute_dtype != "auto":
        stored["bnb_4bit_compute_dtype"] = config.compute_dtype


def _kind(fields: Mapping[str, Any]) -> str:
    """``int8``, ``nf4`` or ``fp4``."""
    is_4bit = bool(fields.get("load_in_4bit") or fields.get("_load_in_4bit"))
    return str(fields.get("bnb_4bit_quant_type", "fp4")) if is_4bit else "int8"


def check_devices(quantization: Any, devices: Iterable[int | str], *, is_stored: bool) -> None:
    """Check that quantized layers can live on the devices of a map.

    Args:
        quantization: the configuration that the model will be loaded with, of any method.
        devices: values of the device map.
        is_stored: whether the checkpoint holds quantized weights.

    Raises:
        QuantizationError: they cannot.
    """
    kinds = {"cuda" if isinstance(device, int) else device for device in devices}
    if not isinstance(quantization, BitsAndBytesConfig):
        return
    name = _kind(quantization.to_dict())
    if "disk" in kinds and "cuda" not in kinds:
        raise QuantizationError(
            f"{name}: quantized layers cannot be offloaded to disk; map them to a device, or load with "
            "quantization 'none'"
        )
    if is_stored and len(kinds) > 1:
        raise QuantizationError(
            f"{name}: layers of a checkpoint that is already quantized cannot be offloaded "
            f"({', '.join(sorted(kinds))}); map all of them to GPUs, or all to the CPU"
        )


def make_quantizer(quantization: Any, *, is_stored: bool) -> HfQuantizer:
    """Return transformers' quantizer for a configuration.

    Raises:
        QuantizationError: its method is unknown, or what it needs (a package, a device) is not here.
    """
    quiet_bitsandbytes()
    try:
        quantizer: HfQuantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=is_stored)
        quantizer.validate_environment(device_map=None)
    except (ImportError, RuntimeError, ValueError, KeyError) as error:
        raise QuantizationError(f"quantization is not supported here: {error}") from error
    return quantizer


def quiet_bitsandbytes() -> None:
    """Silence two warnings of bitsandbytes: an optional package at import, and one for each int8 layer and step."""
    for module in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
        logging.getLogger(module).setLevel(logging.ERROR)


def keep_unfit_layers(model: PreTrainedModel, quantization: BitsAndBytesConfig) -> tuple[str, ...]:
    """Exclude layers from 4-bit quantization whose shapes the CPU kernels cannot take; return their names.

    Args:
        model: on the meta device, not yet quantized.
        quantization: its ``llm_int8_skip_modules`` is extended in place.
    """
    if not quantization.load_in_4bit:
        return ()
    keep_in_fp32 = getattr(model, "_keep_in_fp32_modules", None)
    skipped = HfQuantizer.get_modules_to_not_convert(model, quantization.llm_int8_skip_modules, keep_in_fp32)
    unfit = tuple(
        name
        for name, rows, columns in linear_layers(model)
        if should_convert_module(name, skipped) and not fits_cpu_kernel(rows, columns)
    )
    if unfit:
        quantization.llm_int8_skip_modules = [*skipped, *unfit]
    return unfit


def linear_layers(model: nn.Module) -> Iterator[tuple[str, int, int]]:
    """Yield name, out_features and in_features of every layer that transformers would quantize."""
    for name, module in model.named_modules():
        if isinstance(module, Conv1D):
            yield name, int(module.weight.shape[1]), int(module.weight.shape[0])
        elif type(module) is nn.Linear:
            yield name, module.out_features, module.in_features


def fits_cpu_kernel(out_features: int, in_features: int) -> bool:
    """Whether bitsandbytes' 4-bit kernels for CPUs compute this shape rightly."""
    return out_features % CPU_OUT_FEATURES == 0 and in_features % CPU_IN_FEATURES == 0


def check_stored_shapes(name: str, model: nn.Module) -> None:
    """Check that layers stored in 4 bit have shapes that the CPU kernels take. Raises QuantizationError."""
    for layer, module in model.named_modules():
        if type(module).__name__ == "Linear4bit" and not fits_cpu_kernel(module.out_features, module.in_features):
            raise QuantizationError(
                f"model {name!r}: {layer} is stored in 4 bit with shape ({module.out_features}, {module.in_features}), "
                f"and on a CPU multiples of ({CPU_OUT_FEATURES}, {CPU_IN_FEATURES}) are needed; load it on a GPU, "
                "or quantize the original checkpoint here"
            )
