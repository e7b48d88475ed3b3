"""``python -m tests.gpu.benchmarks``: run rows, print their tables and write their results."""

import logging
import sys

from transformers.utils import logging as transformers_logging

from tests.gpu.benchmarks.device import Device
from tests.gpu.benchmarks.lab import Lab
from tests.gpu.benchmarks.options import parse
from tests.gpu.benchmarks.rows import rows_of, run_rows


def main(arguments: list[str] | None = None) -> int:
    """Run the rows asked for; see :func:`run_rows` for the exit code."""
    options = parse(arguments)
    logging.basicConfig(level=logging.WARNING)
    transformers_logging.set_verbosity_error()
    return run_rows(rows_of(options), Lab(options, Device(options.device)))


if __name__ == "__main__":
    sys.exit(main())
