"""The served model's tokenizer and chat template, read without torch where that is possible.

The door lives in a process of its own, which must be up in a moment and stay small; importing torch only for a
tokenizer would cost it seconds and hundreds of megabytes.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RustTokenizer

from actors.engine.catalog import find_checkpoint
from actors.engine.chat_template import find_chat_template
from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError
from serve_app.chat_template import ChatTemplate
from serve_app.tokenizer import FastTokenizer, Tokenizer, adapt

# Classes that take tokenizer.json as it is; others may change it while they load.
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_CHANGING_FIELDS = ("add_bos_token", "add_eos_token", "added_tokens_decoder")


def read_tokenizer(config: ModelConfig) -> Tokenizer:
    """The served model's tokenizer. Raises ConfigError where it has none."""
    folder = _tokenizer_folder(config)
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


def load_chat_template(config: ModelConfig) -> ChatTemplate | None:
    """The served model's chat template, None where it has none. Raises ConfigError."""
    folder = _tokenizer_folder(config)
    source = find_chat_template(config, folder)
    return None if source is None else ChatTemplate(source, _special_tokens(folder))


def _tokenizer_folder(config: ModelConfig) -> Path:
    if config.tokenizer is not None:
        return find_checkpoint(config.tokenizer).folder
    return find_checkpoint(config.model, config.revision).folder


def _special_tokens(folder: Path) -> dict[str, str]:
    """``bos_token`` and the like, as the tokenizer's files spell them."""
    merged = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
    tokens = {name: value for name, value in merged.items() if name.endswith("_token") and value}
    contents = {name: value["content"] if isinstance(value, dict) else value for name, value in tokens.items()}
    return {name: content for name, content in contents.items() if isinstance(content, str)}


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content
