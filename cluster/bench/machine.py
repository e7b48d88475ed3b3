"""The machine, the versions and the time that figures belong to: what every result file carries."""

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "bitsandbytes", "accelerate", "ray", "msgspec", "slipstream")


def stamp() -> dict[str, Any]:
    """What to add to a result: ``machine`` and ``taken_at``."""
    return {"machine": machine(), "taken_at": datetime.now(UTC).isoformat()}


def machine() -> dict[str, Any]:
    """The machine and the versions that figures belong to. Loads are means over one minute."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
