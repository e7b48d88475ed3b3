"""Where a model's chat template comes from. Free of transformers, so that the HTTP door can read it."""

import json
from pathlib import Path
from typing import Any

from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError


def read_chat_template(value: str) -> str:
    """Return a Jinja template from a file's path or from the template itself. Raises ConfigError."""
    if "{" in value or "\n" in value:  # no path of ours has these, and every template has
        return value
    file = Path(value).expanduser()
    if not file.is_file():
        raise ConfigError(f"chat_template: there is no file {file.absolute()}, and the text is not a Jinja template")
    return file.read_text(encoding="utf-8")


def find_chat_template(config: ModelConfig, folder: Path) -> str | None:
    """The template that the configuration gives, or the one that lies with the tokenizer, None where there is neither.

    Raises ConfigError.
    """
    if config.chat_template is not None:
        return read_chat_template(config.chat_template)
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    own: Any = json.loads(settings.read_text(encoding="utf-8")).get("chat_template") if settings.is_file() else None
    if isinstance(own, list):  # several, each with a name
        own = {entry["name"]: entry["template"] for entry in own}.get("default")
    return None if own is None else str(own)
