"""What a chaos command found: figures, and whether they are what they must be."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.bench.machine import stamp
from tests.benchmarks.measure import RESULTS


@dataclass
class Outcome:
    """One command's figures.

    Attributes:
        name: of the command and of its file.
        what: in a sentence, what was done.
        figures: plain data.
        failures: what is not as it must be, in words; empty if all is well.
    """

    name: str
    what: str
    figures: dict[str, Any]
    failures: list[str] = field(default_factory=list)

    def write(self) -> Path:
        """Write ``results/<name>.json`` beside the benchmarks' and return its path."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        content = {
            "name": self.name,
            "what": self.what,
            **self.figures,
            "failures": self.failures,
            **stamp(),
        }
        path.write_text(json.dumps(content, indent=2) + "\n")
        return path

    def table(self) -> str:
        """The figures for a terminal."""
        lines = [f"{self.name}: {self.what}"]
        lines += [f"  {key:<28}{_short(value)}" for key, value in self.figures.items()]
        return "\n".join(lines + [f"  FAILED: {failure}" for failure in self.failures])


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
