"""Names of devices: how accelerate's maps call them, and where layers run whose weights are offloaded."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from actors.engine.config import DEVICE_MAPS
from actors.engine.errors import ConfigError

Device = int | str  # an accelerator's index, "cpu" or "disk", as accelerate names them
OFFLOADED = ("cpu", "disk")


def device_names(devices: Iterable[Device]) -> str:
    """Return devices for people."""
    return ", ".join(f"cuda:{device}" if isinstance(device, int) else device for device in devices)


def main_device(devices: Iterable[Device]) -> Device:
    """Return where offloaded modules run: the first accelerator of a map, or the CPU."""
    return min((device for device in devices if device not in OFFLOADED), key=str, default="cpu")


def parse_device(value: int | str) -> Device:
    """Return accelerate's name of a device: an index for CUDA, ``cpu`` or ``disk``. Raises ConfigError."""
    if isinstance(value, int) or value in OFFLOADED:
        return value
    try:
        device = torch.device("cuda", int(value)) if value.isdigit() else torch.device(value)
    except RuntimeError as error:
        raise ConfigError(
            f"device_map: {value!r} is neither one of {', '.join(DEVICE_MAPS)} nor a device (cpu, disk, cuda:0, 0)"
        ) from error
    if device.type == "cuda":
        return device.index or 0
    return "cpu" if device.type == "cpu" else str(device)


def execution_devices(model: nn.Module, layers: Mapping[int, str]) -> dict[int, torch.device]:
    """Return the device on which each layer's attention runs, and so its KV cache lies, in a model that is loaded.

    A layer whose weights are offloaded runs where accelerate's hook brings them.
    """
    return {index: _execution_device(model.get_submodule(name)) for index, name in layers.items()}


def _execution_device(layer: nn.Module) -> torch.device:
    modules = list(layer.named_modules())
    in_attention = [module for name, module in modules if "attn" in name or "attention" in name]
    for module in (*in_attention, *(module for _, module in modules)):
        hook = getattr(module, "_hf_hook", None)
        for part in getattr(hook, "hooks", (hook,)):
            device = getattr(part, "execution_device", None)
            if device is not None:
                return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        for parameter in module.parameters(recurse=False):
            if parameter.device.type != "meta":
                return torch.device(parameter.device)
    return torch.device("cpu")
