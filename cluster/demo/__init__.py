"""The embedded pair of models, "demo", and what it is made with.

Importing this package costs nothing: torch and transformers are loaded by the modules that train, measure and
synthesize, none of which is needed to run the pair.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["DRAFT_PATH", "HELD_OUT_PATH", "TARGET_PATH", "resolve"]

_HERE = Path(__file__).resolve().parent

TARGET_PATH = _HERE / "target"
"""Folder of the target: configuration, weights, tokenizer."""

DRAFT_PATH = _HERE / "draft"
"""Folder of the draft, which shares the target's tokenizer."""

HELD_OUT_PATH = _HERE / "heldout.txt"
"""Prose that neither model was trained on; passages are separated by a line of three asterisks."""

_NAMES = {"demo": TARGET_PATH, "demo-draft": DRAFT_PATH}


def resolve(name: str) -> str:
    """Return the path behind a name of the embedded pair, ``demo`` or ``demo-draft``; any other name unchanged."""
    return str(_NAMES.get(name, name))
