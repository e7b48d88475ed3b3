"""``slipstream bench suite``: the project's own benchmarks, run as a process of their own in its checkout."""

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from actors.engine.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def folder(root: Path = ROOT) -> Path:
    """Where the suites lie. Raises ConfigError where this is no checkout but an installed wheel."""
    found = root / "tests" / "benchmarks"
    if not (found / "__main__.py").is_file():
        raise ConfigError(f"bench suite: the suites are in the project's checkout, and {root} is none")
    return found


def list_suites(root: Path = ROOT) -> dict[str, str]:
    """Name to what it measures, in the order in which they run."""
    found = {}
    for name in _names(folder(root)):
        text = ast.get_docstring(ast.parse((folder(root) / f"{name}.py").read_text(encoding="utf-8"))) or ""
        found[name] = " ".join(text.split("\n\n")[0].split())
    return found


def run_suites(names: Sequence[str], repeats: int, root: Path = ROOT) -> int:
    """Run suites, all where none is named; exit code 1 if a bar is missed. Raises ConfigError for unknown names."""
    known = list_suites(root)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"bench suite: no suite named {', '.join(unknown)}; there are {', '.join(known)}")
    command = [sys.executable, "-m", "tests.benchmarks", *names, "--repeats", str(repeats)]
    return subprocess.run(command, cwd=root, check=False).returncode


def _names(suites: Path) -> list[str]:
    """``SUITES`` of the suites' ``__main__``, read without running it."""
    for node in ast.parse((suites / "__main__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "SUITES" for t in node.targets):
            return list(ast.literal_eval(node.value))
    raise ConfigError(f"bench suite: {suites / '__main__.py'} names no SUITES")
