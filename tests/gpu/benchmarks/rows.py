"""Which rows there are, and running them: results are written row by row, and no failure ends the rest."""

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.bench.measure import Report
from cluster.bench.picture import draw_report
from tests.gpu.benchmarks import assisted, bandwidth, burst, host, many_streams, one_stream, widths
from tests.gpu.benchmarks.lab import Lab
from tests.gpu.benchmarks.options import Options


@dataclass(frozen=True)
class Row:
    """One row on one shape.

    Attributes:
        number: what ``--rows`` names it by.
        name: of the row with the shape.
        budget: seconds that it should take at most, for whoever watches.
    """

    number: int
    name: str
    budget: int
    run: Callable[[Lab], Report]


def rows_of(options: Options) -> list[Row]:
    """What to run, in an order in which models are made as seldom as can be."""

    def on(number: int, name: str, budget: int, shape: str, run: Callable[[Lab, str], Report]) -> Row:
        return Row(number, f"{name} {shape}", budget, lambda lab: run(lab, shape))

    main = options.shape
    rows = [
        Row(1, "bandwidth", 5, bandwidth.run),
        on(3, "widths", 30, main, widths.run),
        on(2, "one stream", 45, main, one_stream.run),
        on(4, "assisted", 45, main, assisted.run),
        on(5, "many streams", 60, main, many_streams.run),
        on(7, "burst", 20, options.small_shape, burst.run),
    ]
    if options.with_70b:
        rows += [on(3, "widths", 60, "70B", widths.run), on(4, "assisted", 75, "70B", assisted.run)]
    rows.append(on(6, "host", 25, main, host.run))  # last, since the profiler may slow what comes after it
    return [row for row in rows if row.number in options.rows]


def run_rows(rows: Sequence[Row], lab: Lab) -> int:
    """Run ``rows`` in order; 0 if all bars are met, 1 if one is missed, 2 if a row failed."""
    began = time.perf_counter()
    has_failed, is_met = False, True
    _say(f"{len(rows)} rows, about {sum(row.budget for row in rows)} s: {', '.join(row.name for row in rows)}")
    for row in rows:
        at = time.perf_counter() - began
        if lab.options.deadline and at > lab.options.deadline:
            _say(f"\nrow {row.number}, {row.name}: left out, {at:.0f} s are over")
            continue
        _say(f"\nrow {row.number}, {row.name}: begun at {at:.0f} s, budget {row.budget} s")
        started = time.perf_counter()
        try:
            report = row.run(lab)
        except Exception as error:
            has_failed = True
            report = lab.report(f"gpu_{row.name.replace(' ', '_')}_failed", f"row {row.number} failed: {error}")
            report.notes.append(traceback.format_exc())
        report.settings |= {"row_seconds": time.perf_counter() - started, "budget_seconds": row.budget}
        report.settings["peak_bytes"] = lab.device.peak_bytes()
        _write(report, lab)
        is_met = is_met and all(bar.is_met is not False for bar in report.bars)
    return 2 if has_failed else int(not is_met)


def _write(report: Report, lab: Lab) -> None:
    """JSON first, so that whatever befalls the picture loses nothing."""
    path = report.save(lab.options.out / f"{report.name}.json")
    _say(f"{report.table()}\n  {report.settings['row_seconds']:.1f} s; written to {path}")
    try:
        if report.samples:
            draw_report(report, path.with_suffix(".png"))
    except Exception as error:
        _say(f"  no picture: {error}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
