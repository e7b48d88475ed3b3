"""What the caller's side knows of a model without its weights: its configuration and its generation defaults."""

from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PretrainedConfig

from actors.engine.auto_model import auto_class
from actors.engine.catalog import find_checkpoint
from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError


def load_model_config(config: ModelConfig) -> PretrainedConfig:
    """The model's ``config.json``. Raises ModelNotFoundError, ConfigError."""
    folder = find_checkpoint(config.model, config.revision).folder
    try:
        loaded: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {config.model!r}: its config.json cannot be used: {error}") from error
    return loaded


def load_generation_config(config: ModelConfig, model_config: PretrainedConfig) -> GenerationConfig:
    """The model's generation defaults, with those of the cluster's configuration over them.

    Without a ``generation_config.json`` they come from the model's configuration, as in transformers.
    """
    folder = find_checkpoint(config.model, config.revision).folder
    defaults: GenerationConfig
    if (folder / "generation_config.json").is_file():
        defaults = GenerationConfig.from_pretrained(folder)
    else:
        defaults = GenerationConfig.from_model_config(model_config)
    unused: dict[str, Any] = defaults.update(**(config.generation or {}))
    if unused:
        raise ConfigError(f"generation: transformers knows no {', '.join(sorted(unused))}")
    return defaults


def count_parameters(config: PretrainedConfig) -> int:
    """Number of parameters of a model with this configuration, tied ones counted once."""
    with torch.device("meta"):
        return int(auto_class(config).from_config(config).num_parameters())
