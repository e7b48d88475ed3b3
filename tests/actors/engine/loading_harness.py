"""What tests of loading share: a configuration, and ways to load, generate and look."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.loaded import LoadedModel
from actors.engine.loading import load_model

ENGINE = EngineConfig(block_size=4, num_blocks=64)
PROMPT = tuple(range(10, 30))
NUM_NEW = 16
Make = Callable[[str], str]
"""Returns the folder of a tiny model, made at its first use; a name behind a colon makes another copy."""


def load(model: str, engine: EngineConfig = ENGINE, **fields: Any) -> LoadedModel:
    return load_model(ModelConfig(model=model, **fields), engine)


def greedy(model: Any, prompt: tuple[int, ...] = PROMPT) -> list[int]:
    """New ids by transformers' own generate, whatever ends a text."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=None
    )
    return [int(token) for token in out[0, len(prompt) :]]


def devices(model: Any) -> set[str]:
    """Where the parts of a model rest."""
    return {str(device) for device in model.hf_device_map.values()}


def edit_config(folder: str, **fields: Any) -> None:
    file = Path(folder) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
