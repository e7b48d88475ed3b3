"""Pictures of what was measured, by matplotlib, which comes with ``pip install 'slipstream[bench]'``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.engine.errors import ConfigError
from cluster.bench.measure import Bar, Report, Sample

DPI = 110
MARKS = {True: "tab:green", False: "tab:red", None: "tab:gray"}


def pyplot() -> Any:
    """Matplotlib's drawing functions, onto files. Raises ConfigError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("plot: matplotlib is needed; pip install 'slipstream[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, path: Path) -> Path:
    """Write a PNG, and forget the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    pyplot().close(figure)
    return path


def draw_report(report: Report, path: Path) -> Path:
    """Draw a report's samples, a panel for each unit, and its bars, a panel below.

    Raises ConfigError where matplotlib is not installed.
    """
    units = list(dict.fromkeys(found.unit for found in report.samples.values()))
    groups = [{name: s for name, s in report.samples.items() if s.unit == unit} for unit in units]
    counts = [len(group) for group in groups] + ([len(report.bars)] if report.bars else [])
    figure, panels = pyplot().subplots(
        max(1, len(counts)),
        1,
        figsize=(9, 1.6 + 0.36 * sum(counts) + 0.6 * len(counts)),
        height_ratios=[count + 1 for count in counts] or None,
        layout="constrained",
        squeeze=False,
    )
    rows = [panel for (panel,) in panels]
    for panel, group in zip(rows, groups, strict=False):
        draw_samples(panel, group)
    if report.bars:
        draw_bars(rows[-1], report.bars)
    figure.suptitle(f"{report.name}: {report.what}", fontsize=10, wrap=True)
    return save(figure, path)


def draw_samples(panel: Any, samples: Mapping[str, Sample]) -> None:
    """Horizontal bars to the medians, with each value as a point."""
    names = list(samples)[::-1]
    medians = [samples[name].median for name in names]
    panel.barh(range(len(names)), medians, color="tab:blue", alpha=0.5)
    for row, name in enumerate(names):
        values = samples[name].values
        panel.plot(values, [row] * len(values), "|", color="black", markersize=8)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.set_xlabel(next(iter(samples.values())).unit, fontsize=8)
    panel.grid(axis="x", alpha=0.3)


def draw_bars(panel: Any, bars: Sequence[Bar]) -> None:
    """What was reached, over what must be: musts as lines, green where they are met, red where not."""
    shown = list(bars)[::-1]
    for row, bar in enumerate(shown):
        panel.barh(row, bar.value, color=MARKS[bar.is_met], alpha=0.6)
        if bar.must is not None:
            panel.plot([bar.must, bar.must], [row - 0.4, row + 0.4], color="black")
        panel.annotate(f" {bar.value:.3g}", (bar.value, row), va="center", fontsize=8)
    values = [value for bar in shown for value in (bar.value, bar.must) if value]
    if values and max(values) > 100 * min(map(abs, values)):
        panel.set_xscale("log")
    panel.set_yticks(range(len(shown)), [bar.name for bar in shown], fontsize=8)
    panel.set_xlabel("ratio (line: must)", fontsize=8)
    panel.grid(axis="x", alpha=0.3)
