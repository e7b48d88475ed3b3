"""Row 5: many ragged streams, plain decoding, against transformers' continuous batching with its CUDA graphs."""

import logging
from collections.abc import Callable

from cluster.bench.measure import Report, interleave, timed
from tests.gpu.benchmarks.lab import Lab
from tests.gpu.benchmarks.native import Batches
from tests.gpu.benchmarks.streams import ragged_prompts, run_plain

logger = logging.getLogger(__name__)

SHORTEST, LONGEST = 16, 512
MUST = 1.0
OURS, THEIRS = "slipstream engine", "generate_batch"


def measure(report: Report, ours: Callable[[], int], theirs: Callable[[], int], repeats: int) -> None:
    """Add tokens a second of both, prefill included, and their ratio. Each must have run once."""
    contenders = {OURS: timed(ours), THEIRS: timed(theirs)}
    report.samples |= interleave(contenders, unit="tok/s", repeats=repeats, warm_ups=0)
    report.ratio("over generate_batch", OURS, THEIRS, MUST)


def run(lab: Lab, shape: str) -> Report:
    """Measure and report."""
    pair, options = lab.pair(shape), lab.options
    new = options.num_batch_tokens
    prompts = ragged_prompts(options.num_streams, SHORTEST, LONGEST, pair.native.config.vocab_size)
    report = lab.report(
        f"gpu_many_streams_{shape}",
        f"{shape} NF4, {len(prompts)} streams, prompts of {SHORTEST} to {LONGEST} ids, {new} new, with prefill",
        pair,
    )
    engine = pair.target

    def ours() -> int:
        return sum(map(len, run_plain(engine, prompts, new)))

    report.settings["first_run_seconds"] = lab.device.seconds(ours)
    batches = Batches(pair.native, prompts, new, use_graphs=True)
    try:
        report.settings["their_first_run_seconds"] = lab.device.seconds(batches.run)
    except Exception as error:  # their graphs are asked for; without them is better than nothing
        logger.exception("generate_batch with CUDA graphs failed")
        report.notes.append(f"generate_batch failed with CUDA graphs, and ran without: {error}")
        batches.close()
        batches = Batches(pair.native, prompts, new, use_graphs=False)
        batches.run()
    try:
        measure(report, ours, lambda: sum(map(len, batches.run())), options.repeats)
    finally:
        batches.close()
    return report
