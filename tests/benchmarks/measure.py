"""How a benchmark measures: contenders take turns, medians with spread, ratios in one run, JSON with the machine."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "bitsandbytes", "accelerate", "ray", "msgspec", "slipstream")


@dataclass(frozen=True)
class Sample:
    """One contender's figures over all repeats; ``values`` in the order they were taken."""

    unit: str
    values: tuple[float, ...]
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Bar:
    """What a figure must reach, and whether it does."""

    name: str
    value: float
    must: float | None
    aim: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the must is reached; None where the figure is only reported."""
        return None if self.must is None else self.value >= self.must


@dataclass
class Report:
    """One benchmark's outcome."""

    name: str
    what: str
    settings: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ratio(self, name: str, ours: str, theirs: str, must: float | None, aim: float | None = None) -> None:
        """Add the ratio of two contenders' medians as a bar."""
        self.bars.append(Bar(name, self.samples[ours].median / self.samples[theirs].median, must, aim))

    def write(self) -> Path:
        """Write ``results/<name>.json`` and return its path."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        bars = [{**asdict(bar), "is_met": bar.is_met} for bar in self.bars]
        content = {**asdict(self), "bars": bars, "machine": machine(), "taken_at": datetime.now(UTC).isoformat()}
        path.write_text(json.dumps(content, indent=2) + "\n")
        return path

    def table(self) -> str:
        """The report for a terminal."""
        lines = [f"{self.name}: {self.what}"]
        for name, s in self.samples.items():
            lines.append(f"  {name:<34}{s.median:>10.1f} {s.unit:<8} ({s.low:.1f} to {s.high:.1f}, n={len(s.values)})")
        for bar in self.bars:
            mark = {True: "met", False: "MISSED", None: "reported"}[bar.is_met]
            bound = "" if bar.must is None else f" must {bar.must:g}"
            aim = "" if bar.aim is None else f", aim {bar.aim:g}"
            lines.append(f"  {bar.name:<34}{bar.value:>10.2f} {mark}{bound}{aim}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def interleave(
    contenders: Mapping[str, Callable[[], float]], *, unit: str, repeats: int, warm_ups: int = 1
) -> dict[str, Sample]:
    """Let contenders take turns, ``repeats`` rounds after ``warm_ups`` that do not count.

    A contender returns its figure. Taking turns spreads a machine's slow minutes over all of them.
    """
    values: dict[str, list[float]] = {name: [] for name in contenders}
    rounds = [(index, name) for index in range(warm_ups + repeats) for name in contenders]
    with tqdm(rounds, unit="run", dynamic_ncols=True) as progress:
        for index, name in progress:
            progress.set_description(f"{name}{' (warm-up)' if index < warm_ups else ''}")
            value = contenders[name]()
            if index >= warm_ups:
                values[name].append(value)
    return {name: sample(unit, found) for name, found in values.items()}


def sample(unit: str, values: list[float]) -> Sample:
    """Median and range of ``values``."""
    return Sample(unit, tuple(values), statistics.median(values), min(values), max(values))


def timed(work: Callable[[], int]) -> Callable[[], float]:
    """Turn work that returns a number of tokens into tokens a second."""

    def run() -> float:
        started = time.perf_counter()
        count = work()
        return count / (time.perf_counter() - started)

    return run


def machine() -> dict[str, Any]:
    """The machine and the versions that figures belong to."""
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
