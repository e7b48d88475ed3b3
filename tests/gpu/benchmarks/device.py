"""The device that is measured: its facts, its clock, and how long it is busy."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

LAUNCH_GAP = 4e-6  # seconds between kernels that the device itself needs, inside a graph too


class Device:
    """A CUDA device, or a CPU for rehearsals.

    Args:
        name: as torch has it.
    """

    def __init__(self, name: str) -> None:
        self.torch = torch.device(name)
        self.is_cuda = self.torch.type == "cuda"

    def synchronize(self) -> None:
        """Wait for all that was begun."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def num_bytes(self) -> int:
        """Bytes that tensors take."""
        return int(torch.cuda.memory_allocated()) if self.is_cuda else 0

    def peak_bytes(self) -> int:
        """The most that tensors have taken since the last call."""
        if not self.is_cuda:
            return 0
        peak = int(torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        return peak

    def num_free_bytes(self) -> int:
        """Bytes that the whole device has left."""
        return int(torch.cuda.mem_get_info()[0]) if self.is_cuda else 0

    def seconds(self, work: Callable[[], object]) -> float:
        """Wall time of ``work``, from an idle device to an idle device."""
        self.synchronize()
        started = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - started

    def event_seconds(self, work: Callable[[], object]) -> float:
        """Time on the device's own clock from the beginning of ``work`` to its end, gaps included."""
        if not self.is_cuda:
            return self.seconds(work)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.synchronize()
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def busy_seconds(self, work: Callable[[], object]) -> float:
        """Time that the device works on ``work``, gaps below LAUNCH_GAP included; wall time on a CPU.

        Raises:
            RuntimeError: the profiler has seen nothing of the device.
        """
        if not self.is_cuda:
            return self.seconds(work)
        from torch.profiler import ProfilerActivity, profile

        self.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            work()
            self.synchronize()
        spans = [
            (event.time_range.start * 1e-6, event.time_range.end * 1e-6)
            for event in found.events() or ()
            if event.device_type.name == "CUDA" and "Sync" not in event.name
        ]
        if not spans:
            raise RuntimeError("the profiler has seen no kernel")
        return union_seconds(spans, LAUNCH_GAP)

    def facts(self) -> dict[str, Any]:
        """Name, memory, driver and CUDA."""
        if not self.is_cuda:
            return {"name": str(self.torch)}
        properties = torch.cuda.get_device_properties(self.torch)
        return {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "num_multiprocessors": properties.multi_processor_count,
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "torch": torch.__version__,
        }


def union_seconds(spans: Iterable[tuple[float, float]], gap: float) -> float:
    """Length of the union of (start, end), with gaps up to ``gap`` counted in."""
    total, last_start, last_end = 0.0, None, 0.0
    for start, end in sorted(spans):
        if last_start is None:
            last_start, last_end = start, end
        elif start <= last_end + gap:
            last_end = max(last_end, end)
        else:
            total += last_end - last_start
            last_start, last_end = start, end
    return total if last_start is None else total + last_end - last_start


def _driver() -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    with contextlib.suppress(OSError):
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    return "unknown"
