"""A long, wide beam search beside streams: what it costs them, and how long they stand still for it."""

import itertools
import statistics
import threading
import time
from typing import Any

import torch

from cluster.model import ClusterModel
from tests.benchmarks.measure import Bar, Report, interleave

NUM_STREAMS = 8
NUM_NEW = 96
BATCH, NUM_BEAMS, NUM_BEAM_TOKENS = 16, 4, 512
MUST_KEEP = 0.4
MAX_STALL = 1.0


class Clock:
    """A streamer that notes when tokens came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Note a token; the prompt counts as one."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing to note."""

    def longest_gap(self) -> float:
        """Seconds between two tokens, the longest."""
        return max(after - before for before, after in itertools.pairwise(self.times[1:]))


def run(repeats: int) -> Report:
    """Measure the embedded pair: 8 streams alone, and beside a beam search of 64 rows for 512 tokens."""
    report = Report(
        name="beams",
        what="embedded pair NF4: 8 streams beside a beam search of 16 x 4 rows, 512 new tokens; streams' tokens/s",
        settings={"num_streams": NUM_STREAMS, "max_new_tokens": NUM_NEW, "batch": BATCH, "num_beams": NUM_BEAMS},
    )
    gaps: list[float] = []
    with ClusterModel.from_pretrained("demo") as model:
        ids = model.tokenizer("It was a dark night, and", return_tensors="pt").input_ids

        def stream(clock: Clock) -> None:
            model.generate(ids, max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=None, streamer=clock)

        def streams() -> tuple[float, float]:
            clocks = [Clock() for _ in range(NUM_STREAMS)]
            threads = [threading.Thread(target=stream, args=(clock,)) for clock in clocks]
            begin = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return NUM_STREAMS * NUM_NEW / (time.perf_counter() - begin), max(c.longest_gap() for c in clocks)

        def beside() -> float:
            recorder = _Beams(model, ids.repeat(BATCH, 1))
            try:
                speed, gap = streams()
            finally:
                recorder.stop()
            if not recorder.lasted:
                report.notes.append("the beam search ended before the streams did")
            gaps.append(gap)
            return speed

        report.samples = interleave({"alone": lambda: streams()[0], "beside": beside}, unit="tok/s", repeats=repeats)
    report.ratio("streams beside a beam search over alone", "beside", "alone", MUST_KEEP)
    report.bars.append(Bar("longest wait for a token, seconds under 1", MAX_STALL / max(gaps[1:] or gaps), 1.0))
    report.settings["longest_gaps_s"] = gaps
    report.settings["median_longest_gap_s"] = statistics.median(gaps)
    return report


class _Beams:
    """The beam search, on a thread of its own until it is given up."""

    def __init__(self, model: ClusterModel, ids: torch.Tensor) -> None:
        self._model, self._ids = model, ids
        self.lasted = True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        time.sleep(1.0)  # it should be under way when the streams begin

    def stop(self) -> None:
        """Wait for its end."""
        self.lasted = self._thread.is_alive()
        self._thread.join()

    def _run(self) -> None:
        arguments: dict[str, Any] = {"num_beams": NUM_BEAMS, "max_new_tokens": NUM_BEAM_TOKENS, "eos_token_id": None}
        self._model.generate(self._ids, do_sample=False, **arguments)
