"""Row 3: what a forward of m tokens of one sequence takes, over one of a single token: V(m)."""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence

from cluster.bench.measure import Bar, Report, sample
from tests.gpu.benchmarks.device import Device
from tests.gpu.benchmarks.lab import Lab
from tests.gpu.benchmarks.streams import Decoding, Engine, ragged_prompts

WIDTHS = tuple(range(1, 10))
MOST = {"8B": (5, 1.15), "70B": (7, 1.2)}  # V(m) at most
NUM_WARM_UPS = 2
NUM_PROMPT_TOKENS = 64


def width_seconds(
    engine: Engine, prompt: Sequence[int], vocab: int, device: Device, num_rounds: int
) -> dict[int, list[float]]:
    """Wall time of steps by their width, which take turns in one sequence.

    What they check is random ids, so that the sequence grows by one a step and stays as long for all widths.
    """
    source = random.Random(1)
    sequence = Decoding(engine, [prompt], 4 * len(WIDTHS) * (num_rounds + NUM_WARM_UPS))
    found: dict[int, list[float]] = {width: [] for width in WIDTHS}
    for index in range(num_rounds + NUM_WARM_UPS):
        for width in WIDTHS:
            if width > 1:
                sequence.propose([source.randrange(1, vocab) for _ in range(width - 1)])
            seconds = device.seconds(sequence.step)
            if engine.num_step_tokens != width:
                raise RuntimeError(f"a step of {width} ids computed {engine.num_step_tokens}")
            if index >= NUM_WARM_UPS:
                found[width].append(seconds)
    sequence.end()
    return found


def measure(report: Report, seconds: Callable[[], Mapping[int, Sequence[float]]], bound: tuple[int, float]) -> None:
    """Add step times by width, V(m) of each, and the bar: at most ``bound`` [1] at the width ``bound`` [0]."""
    found = seconds()
    one = statistics.median(found[1])
    for width, values in found.items():
        report.samples[f"T({width})"] = sample("ms", [1e3 * value for value in values])
    for width, values in found.items():
        report.samples[f"V({width})"] = sample("of T(1)", [statistics.median(values) / one])
    width, most = bound
    report.bars.append(Bar(f"{most:g} over V({width})", most * one / statistics.median(found[width]), 1.0))


def run(lab: Lab, shape: str) -> Report:
    """Measure and report."""
    pair = lab.pair(shape)
    report = lab.report(f"gpu_widths_{shape}", f"{shape} NF4, one sequence, steps of 1 to {WIDTHS[-1]} tokens", pair)
    vocab = pair.native.config.vocab_size
    (prompt,) = ragged_prompts(1, NUM_PROMPT_TOKENS, NUM_PROMPT_TOKENS, vocab)
    bound = MOST.get(shape, (5, 1.15))
    measure(report, lambda: width_seconds(pair.target, prompt, vocab, lab.device, lab.options.num_steps), bound)
    return report
