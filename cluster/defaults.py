"""A model's generation defaults as plain data, read without torch or transformers."""

import json
from typing import Any

from actors.engine.catalog import find_checkpoint
from actors.engine.config import ModelConfig

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def generation_defaults(config: ModelConfig) -> dict[str, Any]:
    """Fields of ``generation_config.json``, with the configuration's ``generation`` over them.

    Without that file the special tokens come from ``config.json``. Raises ModelNotFoundError, ConfigError.
    """
    checkpoint = find_checkpoint(config.model, config.revision)
    file = checkpoint.folder / "generation_config.json"
    if file.is_file():
        own = json.loads(file.read_text(encoding="utf-8"))
    else:
        model_config = checkpoint.read_config()
        own = {name: model_config.get(name) for name in SPECIAL_TOKENS}
    return {name: value for name, value in {**own, **(config.generation or {})}.items() if value is not None}
