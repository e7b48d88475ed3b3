"""Where results go: JSON with the machine and versions, and a picture."""

import json
from pathlib import Path
from typing import Any, Protocol

import click


class Result(Protocol):
    """What a command has measured."""

    def plain(self) -> dict[str, Any]:
        """As plain data, with the machine and the time."""

    def draw(self, path: Path) -> Path:
        """Draw a PNG. Raises ConfigError where matplotlib is missing."""


def save_results(result: Result, json_file: Path | None, plot_file: Path | None) -> None:
    """Write what was asked for, and say on stderr where it is."""
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result.plain(), indent=2) + "\n")
        click.echo(f"written to {json_file}", err=True)
    if plot_file is not None:
        click.echo(f"drawn in {result.draw(plot_file)}", err=True)
