"""Configuration of one engine: which model, how it is loaded, and how much it may hold. Free of torch."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from actors.engine.errors import ConfigError

Quantization = Literal["none", "nf4", "fp4", "int8"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One model and how it is put on its devices.

    Attributes:
        model: a local path, a hub id, or ``demo`` (the embedded target) / ``demo-draft`` (the embedded draft).
        revision: branch, tag or commit of a hub id. A hub token is read from the environment (``HF_TOKEN``).
        tokenizer: path or hub id of the tokenizer, where it is not the model's own.
        quantization: bitsandbytes quantization at load. ``none`` keeps a checkpoint's own quantization.
        quantization_config: fields of a full ``transformers.BitsAndBytesConfig``; excludes ``quantization``.
        double_quant: quantize the quantization constants too (nf4, fp4).
        quantize_head: quantize a large output layer too (nf4, fp4), most of what a small draft reads; it is right a
            little less often for it.
        compute_dtype: dtype of 4-bit matrix products; ``auto`` is the model's dtype.
        dtype: dtype of what is not quantized; ``auto`` is the checkpoint's.
        device_map: one of accelerate's strategies, a device, or module names to devices (``cpu``, ``disk``, 0, ...).
        max_memory: device to bytes ("10GiB"); what is left out is planned from what is free, KV cache included.
        offload_folder: where layers mapped to ``disk`` go; a temporary folder by default.
        attn_implementation: ``paged`` (the engine's own), or one of transformers' for the fallback path.
        chat_template: a Jinja template, or a path to one, in place of the tokenizer's.
        generation: generation defaults over the model's own ``generation_config.json``.
    """

    model: str
    revision: str | None = None
    tokenizer: str | None = None
    quantization: Quantization = "none"
    quantization_config: dict[str, Any] | None = None
    double_quant: bool = False
    quantize_head: bool = False
    compute_dtype: Dtype = "auto"
    dtype: Dtype = "auto"
    device_map: str | dict[str, int | str] = "auto"
    max_memory: dict[str | int, int | str] | None = None
    offload_folder: str | None = None
    attn_implementation: str = "paged"
    chat_template: str | None = None
    generation: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("model: a path, a hub id or 'demo' is needed, but it is empty")
        if self.quantization != "none" and self.quantization_config is not None:
            raise ConfigError("quantization_config replaces quantization: give one of them, not both")
        if self.double_quant and self.quantization not in ("nf4", "fp4"):
            raise ConfigError("double_quant: only nf4 and fp4 have quantization constants to quantize again")
        if self.quantize_head and self.quantization not in ("nf4", "fp4"):
            raise ConfigError("quantize_head: the output layer can be quantized to nf4 and fp4 only")


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Bounds of one engine.

    Attributes:
        block_size: tokens a KV block.
        num_blocks: KV blocks; None plans them from ``kv_cache_memory`` or from the memory that is free.
        kv_cache_memory: bytes for the KV cache, where num_blocks is None.
        max_num_seqs: sequences that may run at once.
        max_num_batched_tokens: tokens one forward may compute; longer prompts are prefilled in chunks.
        max_model_len: context in tokens; None takes the model's.
        max_num_waiting: requests that may wait; more are refused.
        prefix_cache: reuse the KV blocks of equal prompt beginnings.
        num_threads: CPU threads of this engine; None leaves torch's setting.
        cuda_graphs: capture steps on a GPU, where the model allows it.
        compile_layers: compile decoder layers on a GPU, where the model allows it; the engine starts the later for it.
    """

    block_size: Annotated[int, Meta(ge=1)] = 32
    num_blocks: Annotated[int, Meta(ge=1)] | None = None
    kv_cache_memory: Annotated[int, Meta(ge=1)] | None = None
    max_num_seqs: Annotated[int, Meta(ge=1)] = 64
    max_num_batched_tokens: Annotated[int, Meta(ge=1)] = 4096
    max_model_len: Annotated[int, Meta(ge=2)] | None = None
    max_num_waiting: Annotated[int, Meta(ge=1)] = 1024
    prefix_cache: bool = True
    num_threads: Annotated[int, Meta(ge=1)] | None = None
    cuda_graphs: bool = True
    compile_layers: bool = True
