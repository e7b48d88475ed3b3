"""Row 6: how much of a step the host takes, that is, for how long the device waits for it."""

import statistics
from collections.abc import Callable

from cluster.bench.measure import Bar, Report, sample
from tests.gpu.benchmarks.device import Device
from tests.gpu.benchmarks.lab import Lab
from tests.gpu.benchmarks.streams import Decoding, ragged_prompts

MOST = 0.10
NUM_WARM_UPS = 4
NUM_PROMPT_TOKENS = 64


def measure(
    report: Report, name: str, step: Callable[[], None], device: Device, num_steps: int, *, is_bar: bool
) -> None:
    """Add wall and device time of a step, and the host's share of it.

    Device time is what the profiler sees the device do, short gaps between kernels included, over steps of their own;
    where it sees nothing, what the device's clock says, which holds waiting for the host too and is then a lower bound.
    """
    for _ in range(NUM_WARM_UPS):
        step()
    wall = [device.seconds(step) for _ in range(2 * num_steps)]
    events = [device.event_seconds(step) for _ in range(num_steps)]
    median = statistics.median(wall)

    def several() -> None:
        for _ in range(num_steps):
            step()

    try:
        busy = device.busy_seconds(several) / num_steps
    except Exception as error:  # a machine without access to the profiler
        report.notes.append(f"{name}: {error}; device time by events, so that the host's share is a lower bound")
        busy = statistics.median(events)
    report.samples[f"{name}: a step"] = sample("ms", [1e3 * value for value in wall])
    report.samples[f"{name}: device busy"] = sample("ms", [1e3 * busy])
    report.samples[f"{name}: device, by events"] = sample("ms", [1e3 * value for value in events])
    part = max(0.0, median - busy) / median
    report.samples[f"{name}: host's share"] = sample("of a step", [part])
    # Bars are from below, and a share may be none at all.
    report.bars.append(Bar(f"{name}: {MOST:g} over the host's share", MOST / max(part, 1e-3), 1.0 if is_bar else None))


def run(lab: Lab, shape: str) -> Report:
    """Measure and report: one stream, which is the bar, and as many as fit a step."""
    pair, options = lab.pair(shape), lab.options
    vocab = pair.native.config.vocab_size
    report = lab.report(f"gpu_host_{shape}", f"{shape} NF4, plain decoding: a step, and the device's part of it", pair)
    num_tokens = 2 * NUM_WARM_UPS + 4 * options.num_steps
    for count in (1, options.num_streams):
        prompts = ragged_prompts(count, NUM_PROMPT_TOKENS, NUM_PROMPT_TOKENS, vocab)
        streams = Decoding(pair.target, prompts, num_tokens + 4 * count)
        name = f"{count} stream{'s' * (count > 1)}"
        measure(report, name, streams.step, lab.device, options.num_steps, is_bar=count == 1)
        streams.end()
    return report
