"""Row 2: plain decoding of one stream, against the device's bandwidth and transformers' eager generation."""

import statistics
from collections.abc import Callable, Sequence

from cluster.bench.measure import Bar, Report, interleave, sample, timed
from tests.gpu.benchmarks import native
from tests.gpu.benchmarks.device import Device
from tests.gpu.benchmarks.lab import Lab
from tests.gpu.benchmarks.streams import Decoding, Engine, cycling, ragged_prompts, run_plain
from tests.gpu.random_models import kv_bytes

NUM_PROMPT_TOKENS = 64
NUM_WARM_UPS = 4  # steps
MUST_OF_BANDWIDTH = 0.40
MUST_OVER_EAGER = 4.0


def measure(report: Report, ours: Callable[[], int], theirs: Callable[[], int], repeats: int) -> None:
    """Add tokens a second of both, which take turns, and their ratio."""
    report.samples |= interleave(
        {"slipstream, plain": timed(ours), "transformers, eager": timed(theirs)}, unit="tok/s", repeats=repeats
    )
    report.ratio("over transformers' eager", "slipstream, plain", "transformers, eager", MUST_OVER_EAGER)


def step_seconds(engine: Engine, prompt: Sequence[int], num_steps: int, device: Device) -> list[float]:
    """Wall time of single steps of plain decoding, the first few left out."""
    sequence = Decoding(engine, [prompt], num_steps + 2 * NUM_WARM_UPS)
    found = [device.seconds(sequence.step) for _ in range(num_steps + NUM_WARM_UPS)][NUM_WARM_UPS:]
    sequence.end()
    return found


def run(lab: Lab, shape: str) -> Report:
    """Measure and report."""
    pair, options = lab.pair(shape), lab.options
    new = options.num_new_tokens
    prompts = ragged_prompts(options.repeats + 1, NUM_PROMPT_TOKENS, NUM_PROMPT_TOKENS, pair.native.config.vocab_size)
    report = lab.report(
        f"gpu_one_stream_{shape}", f"{shape} NF4, one stream, {NUM_PROMPT_TOKENS} ids of prompt, {new} new", pair
    )
    engine = pair.target
    steps = step_seconds(engine, prompts[0], new, lab.device)
    seconds = statistics.median(steps)
    num_bytes = pair.facts["read_bytes"] + kv_bytes(pair.native) * (NUM_PROMPT_TOKENS + new // 2)
    report.settings["bytes_a_token"] = num_bytes
    report.samples["a step"] = sample("ms", [1e3 * value for value in steps])
    share_of_bandwidth = num_bytes / seconds / lab.bandwidth()
    report.bars.append(Bar("bytes read over bandwidth", share_of_bandwidth, MUST_OF_BANDWIDTH))
    mine = run_plain(engine, prompts[:1], new)[0]
    theirs = native.generate(pair.native, prompts[0], new)
    report.notes.append(f"ids equal to transformers' from the first on: {num_equal(mine, theirs)} of {new}")
    measure(
        report,
        cycling(prompts, lambda prompt: len(run_plain(engine, [prompt], new)[0])),
        cycling(prompts, lambda prompt: len(native.generate(pair.native, prompt, new))),
        options.repeats,
    )
    return report


def num_equal(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two texts share from their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
