"""Row 1: how many bytes a second the device reads, by summing a tensor far larger than its caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from cluster.bench.measure import Report, sample
from tests.gpu.benchmarks.device import Device

if TYPE_CHECKING:
    from tests.gpu.benchmarks.lab import Lab

NUM_BYTES = 8_000_000_000
NUM_BYTES_ON_CPU = 64_000_000


def read_bandwidth(device: Device, repeats: int) -> list[float]:
    """Bytes a second of ``repeats`` sums over one tensor of float32, the best of three reductions each."""
    num_bytes = NUM_BYTES if device.is_cuda else NUM_BYTES_ON_CPU
    data = torch.ones(num_bytes // 4, dtype=torch.float32, device=device.torch)
    square = data.view(-1, 4000)
    ways: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: torch.sum(data),
        lambda: torch.sum(square, dim=1),
        lambda: torch.amax(square, dim=1),
    )
    for way in ways:
        way()
    return [num_bytes / min(device.event_seconds(way) for way in ways) for _ in range(repeats)]


def run(lab: Lab) -> Report:
    """Measure and report."""
    report = lab.report("gpu_bandwidth", "reading: reductions over 8 GB of float32, GB/s")
    values = read_bandwidth(lab.device, max(5, lab.options.repeats))
    lab.note_bandwidth(max(values))
    report.samples["read"] = sample("GB/s", [value / 1e9 for value in values])
    return report
