"""Calling a transformers model on packed ids, and where its inputs belong."""

from typing import Any

import torch

from actors.engine.loaded import LoadedModel


def input_device(loaded: LoadedModel) -> torch.device:
    """Where input ids belong: the device on which the first layer runs."""
    if loaded.layer_devices:
        return loaded.layer_devices[min(loaded.layer_devices)]
    return torch.device(loaded.model.device)


def packed_forward(
    model: torch.nn.Module, ids: Any, positions: Any, logits_at: Any, device: torch.device
) -> torch.Tensor:
    """One forward over packed ids: logits (len(logits_at), vocab_size) at the rows ``logits_at``."""
    out = model(
        input_ids=torch.as_tensor(ids, device=device)[None],
        position_ids=torch.as_tensor(positions, device=device)[None],
        use_cache=False,
        logits_to_keep=torch.as_tensor(logits_at, device=device),
    )
    logits: torch.Tensor = out.logits[0]
    return logits
