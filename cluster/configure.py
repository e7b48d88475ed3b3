"""A :class:`ClusterConfig` from the arguments of ``ClusterModel.from_pretrained`` and of the command line."""

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from actors.config import RouterConfig, WorkerConfig
from actors.drafter import NO_DRAFT
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.errors import ConfigError
from cluster.config import ClusterConfig

DEMO = "demo"
DEMO_DRAFT = "demo-draft"


def configure(
    model: str,
    *,
    assistant_model: str | None = None,
    revision: str | None = None,
    assistant_revision: str | None = None,
    quantization: str | None = None,
    assistant_quantization: str | None = None,
    quantization_config: Any = None,
    assistant_quantization_config: Any = None,
    dtype: Any = "auto",
    device_map: Any = "auto",
    assistant_device_map: Any = "auto",
    max_memory: Mapping[int | str, int | str] | None = None,
    target_replicas: int = 1,
    draft_replicas: int | None = None,
    num_gpus: float | None = None,
    assistant_num_gpus: float | None = None,
    num_threads: int | None = None,
    num_assistant_tokens: int | None = None,
    engine: EngineConfig | None = None,
) -> ClusterConfig:
    """Build the configuration of a cluster that serves ``model``, with ``assistant_model`` as its draft.

    ``demo`` brings its own draft and is loaded as NF4 on the CPU; other models come as their checkpoint is, over all
    GPUs that are visible. ``draft_replicas`` 0, and "none" for its name, leave the draft out. CPU threads are shared
    out evenly among actors.

    Raises:
        ConfigError: a value that cannot work; names the field.
    """
    if target_replicas < 1 or (draft_replicas or 0) < 0:
        raise ConfigError(f"replicas: at least one target, and drafts: {target_replicas=}, {draft_replicas=}")
    is_demo = model == DEMO
    draft_name = None if assistant_model == NO_DRAFT else assistant_model or (DEMO_DRAFT if is_demo else None)
    if draft_name is None and draft_replicas:
        raise ConfigError(f"draft_replicas: {draft_replicas} drafts are asked for, but there is no assistant_model")
    num_drafts = 0 if draft_name is None else 1 if draft_replicas is None else draft_replicas
    gpus, draft_gpus = _gpus(is_demo, num_gpus, assistant_num_gpus, target_replicas, num_drafts)
    threads = num_threads or (1 if is_demo else max(1, _num_cores() // (target_replicas + num_drafts)))
    if engine is None:
        engine = ClusterConfig.demo().target.worker.engine if is_demo else EngineConfig()
    if num_assistant_tokens is None and is_demo:
        num_assistant_tokens = ClusterConfig.demo().router.num_assistant_tokens
    target = WorkerConfig(
        model=_model_config(
            model,
            revision,
            quantization,
            quantization_config,
            dtype=dtype,
            device_map=device_map,
            max_memory=max_memory,
        ),
        engine=engine,
        num_gpus=gpus,
        num_threads=threads,
    )
    draft = None
    if draft_name is not None and num_drafts:
        draft = WorkerConfig(
            model=_model_config(
                draft_name,
                assistant_revision,
                assistant_quantization,
                assistant_quantization_config,
                dtype=dtype,
                device_map=assistant_device_map,
            ),
            engine=engine,
            num_gpus=draft_gpus,
            num_threads=threads,
        )
    return _convert(
        {
            "name": model,
            "target": {"worker": target, "replicas": target_replicas},
            "draft": None if draft is None else {"worker": draft, "replicas": num_drafts},
            "router": RouterConfig(num_assistant_tokens=num_assistant_tokens),
        }
    )


def _model_config(
    model: str,
    revision: str | None,
    quantization: str | None,
    quantization_config: Any,
    *,
    dtype: Any,
    device_map: Any,
    max_memory: Mapping[int | str, int | str] | None = None,
) -> ModelConfig:
    """One model; without a word on quantization the embedded ones come as NF4, others as their checkpoint is."""
    if quantization is None:
        quantization = "nf4" if model in (DEMO, DEMO_DRAFT) and quantization_config is None else "none"
    fields = {
        "model": model,
        "revision": revision,
        "quantization": quantization,
        "quantization_config": _plain_quantization(quantization_config),
        "dtype": _dtype_name(dtype),
        "device_map": _plain_device_map(device_map),
        "max_memory": None if max_memory is None else dict(max_memory),
    }
    try:
        return msgspec.convert(fields, ModelConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{model}: {error}") from error


def _convert(fields: dict[str, Any]) -> ClusterConfig:
    try:
        return msgspec.convert(msgspec.to_builtins(fields), ClusterConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"cluster config: {error}") from error


def _plain_quantization(config: Any) -> dict[str, Any] | None:
    """A ``transformers.BitsAndBytesConfig``, or its fields, as plain data."""
    if config is None:
        return None
    fields = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(fields, Mapping):
        raise ConfigError(f"quantization_config: a BitsAndBytesConfig or its fields are needed, but it is {config!r}")
    if getattr(fields.get("quant_method"), "value", fields.get("quant_method", "bitsandbytes")) != "bitsandbytes":
        raise ConfigError(f"quantization_config: only BitsAndBytesConfig is supported, but it is {type(config)}")
    return {name: value for name, value in fields.items() if name != "quant_method" and not name.startswith("_")}


def _plain_device_map(device_map: Any) -> str | dict[str, int | str]:
    """Devices as numbers and names; ``torch.device`` objects may stand in a map."""
    if isinstance(device_map, Mapping):
        return {name: device if isinstance(device, int) else str(device) for name, device in device_map.items()}
    return str(device_map)


def _dtype_name(dtype: Any) -> str:
    """``torch.bfloat16`` or "bfloat16" as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def _gpus(
    is_demo: bool, num_gpus: float | None, assistant_num_gpus: float | None, num_targets: int, num_drafts: int
) -> tuple[float, float]:
    """GPUs of a target and of a draft: as asked for, else the visible ones shared out."""
    if num_gpus is not None or assistant_num_gpus is not None or is_demo:
        return num_gpus or 0.0, assistant_num_gpus or 0.0
    return share_gpus(_num_visible_gpus(), num_targets, num_drafts)


def share_gpus(num_devices: int, num_targets: int, num_drafts: int) -> tuple[float, float]:
    """Share devices out: one to each draft and the rest to the targets, or fractions where there are too few.

    >>> share_gpus(8, 1, 1), share_gpus(1, 1, 1), share_gpus(0, 1, 1)
    ((7.0, 1.0), (0.8, 0.2), (0.0, 0.0))
    """
    if num_devices == 0:
        return 0.0, 0.0
    num_whole = (num_devices - num_drafts) // num_targets
    if num_whole >= 1:
        return float(num_whole), 1.0 if num_drafts else 0.0
    draft_part = 0.2 * num_devices / num_drafts if num_drafts else 0.0
    target_part = (num_devices - draft_part * num_drafts) / num_targets
    return min(1.0, _floor(target_part)), _floor(draft_part)


def _floor(part: float) -> float:
    """To hundredths, downwards, as Ray's fractions must not sum to more than a device."""
    return int(part * 100 + 1e-6) / 100


def _num_visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
