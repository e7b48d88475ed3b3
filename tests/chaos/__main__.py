"""``python -m tests.chaos COMMAND [--count N] [--seed N]``: disturb a cluster, and see whether it shows.

Each command is a module of this package with ``COUNT``, how often it disturbs by default, and
``run(count, seed) -> Outcome``.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path


def commands() -> list[str]:
    """The modules that are commands: those that say how often they disturb."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [file.stem for file in files if any(line.startswith("COUNT = ") for line in file.read_text().splitlines())]


def main() -> int:
    """Run one command; exit code 1 if what it found is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("command", choices=commands())
    parser.add_argument("--count", type=int, default=None, help="how often to disturb")
    parser.add_argument("--seed", type=int, default=0, help="of what is random about it")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    module = importlib.import_module(f"tests.chaos.{options.command}")
    outcome = module.run(module.COUNT if options.count is None else options.count, options.seed)
    path = outcome.write()
    sys.stdout.write(f"\n{outcome.table()}\n  written to {path}\n")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
