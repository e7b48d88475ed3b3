"""The tokenizer on the client's side. transformers, and torch with it, is imported when one is loaded."""

from typing import TYPE_CHECKING

from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(config: ModelConfig) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a model. Raises ModelNotFoundError, and ConfigError where the model has none."""
    from actors.engine import tokenizer

    loaded = tokenizer.load_tokenizer(config)
    if loaded is None:
        raise ConfigError(f"model {config.model!r} has no tokenizer; name one with the field 'tokenizer'")
    return loaded
