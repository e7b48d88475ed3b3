"""The served model's tokenizer, read without torch where that is possible.

The door lives in a process of its own, which must be up in a moment and stay small; importing torch only for a
tokenizer would cost it seconds and hundreds of megabytes.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RustTokenizer

from actors.engine.catalog import find_checkpoint
from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError
from serve_app.tokenizer import FastTokenizer, Tokenizer, adapt

# Classes that take tokenizer.json as it is; others may change it while they load.
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_CHANGING_FIELDS = ("add_bos_token", "add_eos_token", "added_tokens_decoder")


def read_tokenizer(config: ModelConfig) -> Tokenizer:
    """The served model's tokenizer. Raises ConfigError where it has none."""
    if config.tokenizer is not None:
        folder = find_checkpoint(config.tokenizer).folder
    else:
        folder = find_checkpoint(config.model, config.revision).folder
    settings = _read_json(folder / "tokenizer_config.json")
    file = folder / "tokenizer.json"
    is_plain = settings.get("tokenizer_class") in _PLAIN_CLASSES and not any(map(settings.get, _CHANGING_FIELDS))
    if is_plain and file.is_file():
        return FastTokenizer(RustTokenizer.from_file(str(file)))
    from actors.engine.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(config)
    if tokenizer is None:
        raise ConfigError(f"model {config.model!r} has no tokenizer, so text cannot be served; name one in 'tokenizer'")
    return adapt(tokenizer)


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content
