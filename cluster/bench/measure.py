"""How a benchmark measures: contenders take turns, medians with spread, ratios in one run, JSON with the machine."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from cluster.bench.machine import stamp

T = TypeVar("T")


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
    """One benchmark's outcome.

    Attributes:
        pictures: files that show more of it than its samples and bars.
    """

    name: str
    what: str
    settings: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    def ratio(self, name: str, ours: str, theirs: str, must: float | None, aim: float | None = None) -> None:
        """Add the ratio of two contenders' medians as a bar."""
        self.bars.append(Bar(name, self.samples[ours].median / self.samples[theirs].median, must, aim))

    def plain(self) -> dict[str, Any]:
        """The report as plain data, with the machine and the time."""
        bars = [{**asdict(bar), "is_met": bar.is_met} for bar in self.bars]
        return {**asdict(self), "bars": bars, **stamp()}

    def save(self, path: Path) -> Path:
        """Write JSON to ``path`` and return it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.plain(), indent=2) + "\n")
        return path

    def table(self) -> str:
        """The report for a terminal."""
        lines = [f"{self.name}: {self.what}"]
        for name, s in self.samples.items():
            digits = 1 if s.median >= 10.0 else 2
            spread = f"({s.low:.{digits}f} to {s.high:.{digits}f}, n={len(s.values)})"
            lines.append(f"  {name:<34}{s.median:>10.{digits}f} {s.unit:<8} {spread}")
        for bar in self.bars:
            mark = {True: "met", False: "MISSED", None: "reported"}[bar.is_met]
            bound = "" if bar.must is None else f" must {bar.must:g}"
            aim = "" if bar.aim is None else f", aim {bar.aim:g}"
            lines.append(f"  {bar.name:<34}{bar.value:>10.3g} {mark}{bound}{aim}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def take_turns(
    contenders: Mapping[str, Callable[[], T]],
    *,
    repeats: int,
    warm_ups: int = 1,
    is_quiet: bool | None = None,
) -> dict[str, list[T]]:
    """Let contenders take turns, ``repeats`` rounds after ``warm_ups`` that do not count; what each returned.

    Taking turns spreads a machine's slow minutes over all of them. Progress is shown on stderr; ``is_quiet`` None
    shows none where that is no terminal.
    """
    found: dict[str, list[T]] = {name: [] for name in contenders}
    rounds = [(index, name) for index in range(warm_ups + repeats) for name in contenders]
    with tqdm(rounds, unit="run", dynamic_ncols=True, disable=is_quiet) as progress:
        for index, name in progress:
            progress.set_description(f"{name}{' (warm-up)' if index < warm_ups else ''}")
            value = contenders[name]()
            if index >= warm_ups:
                found[name].append(value)
    return found


def interleave(
    contenders: Mapping[str, Callable[[], float]], *, unit: str, repeats: int, warm_ups: int = 1
) -> dict[str, Sample]:
    """:func:`take_turns` of contenders that return a figure each."""
    found = take_turns(contenders, repeats=repeats, warm_ups=warm_ups, is_quiet=False)
    return {name: sample(unit, values) for name, values in found.items()}


def sample(unit: str, values: Sequence[float]) -> Sample:
    """Median and range of ``values``, at least one."""
    return Sample(unit, tuple(values), statistics.median(values), min(values), max(values))


def timed(work: Callable[[], int]) -> Callable[[], float]:
    """Turn work that returns a number of tokens into tokens a second."""

    def run() -> float:
        started = time.perf_counter()
        count = work()
        return count / (time.perf_counter() - started)

    return run
