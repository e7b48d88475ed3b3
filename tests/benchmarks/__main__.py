"""``python -m tests.benchmarks [suite ...]``: run benchmarks, print their tables and write their results."""

import argparse
import importlib
import sys

from transformers.utils import logging as transformers_logging

SUITES = (
    "throughput",
    "single_stream",
    "eight_streams",
    "embedded_stream",
    "speculation_model",
    "speculation_off",
    "start_up",
    "http",
    "batch",
    "grammar",
    "autoscale",
    "simulated",
    "beam_search",
    "beams",
    "channel",
    "native_memory",
)


def main() -> int:
    """Run the suites asked for; exit code 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", default=SUITES, metavar="suite", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each contender that count (default 5)")
    options = parser.parse_args()
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        parser.error(f"no suite named {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    is_met = True
    for suite in options.suites:
        report = importlib.import_module(f"tests.benchmarks.{suite}").run(options.repeats)
        path = report.write()
        sys.stdout.write(f"\n{report.table()}\n  written to {path}, drawn in {report.draw()}\n")
        is_met = is_met and all(bar.is_met is not False for bar in report.bars)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
