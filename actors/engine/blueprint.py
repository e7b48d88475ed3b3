"""A model without weights: what it is made of, how many bytes each tensor will take, and what stays unquantized."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.quantizers.base import HfQuantizer

from actors.engine.auto_model import auto_class
from actors.engine.errors import ConfigError
from actors.engine.quantization import check_stored_shapes, keep_unfit_layers, make_quantizer

FOUR_BIT_OVERHEAD = 1.125  # one float32 scale for each 64 weights of half a byte
FUSED_SHARE = 0.5  # of the weights left unquantized, from which on a person should know


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A model on the meta device, its layers quantized as they will be loaded.

    Attributes:
        model: all tensors on ``meta``.
        quantizer: transformers', or None.
        quantization: the configuration to load with, or None for a checkpoint as it is.
        sizes: bytes of each tensor as it will be loaded.
        plain_sizes: bytes of each tensor where it is not quantized (layers offloaded to the CPU).
        layers: module name of each decoder layer, by index.
        notes: what a person should know.
    """

    model: PreTrainedModel
    quantizer: HfQuantizer | None
    quantization: BitsAndBytesConfig | None
    sizes: dict[str, int]
    plain_sizes: dict[str, int]
    layers: dict[int, str]
    notes: tuple[str, ...] = ()

    @property
    def num_embeddings(self) -> int:
        """Token ids that the model knows."""
        weight: torch.Tensor = self.model.get_input_embeddings().weight  # type: ignore[assignment]
        return int(weight.shape[0])


def draw_blueprint(
    name: str,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    quantization: BitsAndBytesConfig | None,
    *,
    is_cpu_only: bool,
    attn_implementation: str | None = None,
) -> Blueprint:
    """Build a model on the meta device, in some milliseconds and without memory.

    Args:
        name: of the model, for errors.
        config: its configuration; a ``quantization_config`` in it is that of stored weights.
        dtype: of what is not quantized.
        quantization: to apply at load, or None.
        is_cpu_only: whether quantized layers will run on a CPU.
        attn_implementation: one of transformers', or None for its default.

    Raises:
        ConfigError: this is not a causal language model, or it has no such attention.
        QuantizationError: the quantization cannot be had here.
    """
    model = _empty_model(name, config, dtype, attn_implementation)
    plain_sizes = _sizes(model, None)
    stored = getattr(config, "quantization_config", None)
    notes: list[str] = []
    quantizer = None
    if stored is not None or quantization is not None:
        quantizer = make_quantizer(stored or quantization, is_stored=stored is not None)
        if is_cpu_only and quantization is not None and stored is None:
            notes += _unfit_note(keep_unfit_layers(model, quantization))
        quantizer.preprocess_model(model=model, dtype=dtype, device_map=None, checkpoint_files=None)
        if is_cpu_only and stored is not None:
            check_stored_shapes(name, model)
        if stored is None:
            notes += _unquantized_note(model, quantizer)
    return Blueprint(
        model=model,
        quantizer=quantizer,
        quantization=None if stored is not None else quantization,
        sizes=_sizes(model, quantizer),
        plain_sizes=plain_sizes,
        layers=decoder_layers(model),
        notes=tuple(notes),
    )


def decoder_layers(model: PreTrainedModel) -> dict[int, str]:
    """Return the module name of each decoder layer: the outermost list that is as long as the model is deep."""
    depth = int(model.config.get_text_config().num_hidden_layers)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return {index: f"{name}.{index}" for index in range(depth)}
    return {}


def _empty_model(name: str, config: PreTrainedConfig, dtype: torch.dtype, attention: str | None) -> PreTrainedModel:
    extra: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    try:
        with torch.device("meta"):
            model: PreTrainedModel = auto_class(config).from_config(
                config, dtype=dtype, trust_remote_code=False, **extra
            )
    except (ValueError, ImportError) as error:
        if attention is not None:
            raise ConfigError(f"model {name!r}: attn_implementation {attention!r}: {error}") from error
        raise ConfigError(f"model {name!r}: {config.model_type} is not a model that generates text: {error}") from error
    model.tie_weights()
    return model


def _sizes(model: PreTrainedModel, quantizer: HfQuantizer | None) -> dict[str, int]:
    """Bytes of each parameter and buffer by name; tied ones once."""
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    sizes = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in tied:
            continue
        size = float(tensor.element_size())
        if quantizer is not None and quantizer.param_needs_quantization(model, name):
            size = quantizer.param_element_size(model, name, tensor)
            size *= FOUR_BIT_OVERHEAD if size < 1 else 1
        sizes[name] = int(tensor.numel() * size)
    return sizes


def _unfit_note(names: tuple[str, ...]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 1} more layers" if len(names) > 1 else ""
    return [f"not quantized, since their shapes do not suit 4-bit kernels on a CPU: {names[0]}{more}"]


def _unquantized_note(model: PreTrainedModel, quantizer: HfQuantizer) -> list[str]:
    """Say so where most of a model stays as it is, as with experts that transformers fuses into one tensor."""
    total = sum(tensor.numel() for _, tensor in model.named_parameters())
    done = sum(t.numel() for name, t in model.named_parameters() if quantizer.param_needs_quantization(model, name))
    left = 1 - done / total
    if left < FUSED_SHARE:
        return []
    return [f"{left:.0%} of the weights are in layers that bitsandbytes does not quantize (embeddings, fused experts)"]
