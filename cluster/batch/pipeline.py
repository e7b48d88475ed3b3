"""The batch as a Ray Data pipeline: blocks of lines, through a pool of feeder actors, to results as they come."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from cluster.batch.answering import OpenAnswerer
from cluster.batch.feeder import Feeder
from cluster.batch.plan import Entry, Plan
from cluster.config import ClusterConfig

IN_FLIGHT_PER_SEQUENCE = 2  # requests in flight for each that an engine can run, so that some always wait there
BLOCKS_PER_WINDOW = 16
MAX_BLOCK_ROWS = 64
OVERSUBSCRIPTION = 2  # blocks at a feeder, in terms of what it may have in flight, so that a slow row holds up nothing


@dataclass(frozen=True)
class Pipeline:
    """How to run: what answers, over how many feeders, with how many requests in flight in all."""

    open_answerer: OpenAnswerer
    config: ClusterConfig
    seed: int
    max_in_flight: int
    num_feeders: int = 1

    def run(self, plan: Plan, entries: list[Entry]) -> Iterator[pa.Table]:
        """Yield tables of results (:data:`cluster.batch.feeder.SCHEMA`) in the order in which blocks end.

        Raises ray.exceptions.RayError where actors or the cluster are gone for good.
        """
        num_rows = block_rows(self.max_in_flight)
        window = math.ceil(self.max_in_flight / self.num_feeders)
        num_calls = max(1, math.ceil(OVERSUBSCRIPTION * window / num_rows))
        _quieten()
        # Lines as they are: Ray Data's own JSON reader would give all bodies the fields of all others, and would take
        # one bad line for the end of the job.
        blocks: list[Any] = [
            ray.put(pa.table({"line": plan.read(entries[start : start + num_rows])}))
            for start in range(0, len(entries), num_rows)
        ]
        results = ray.data.from_arrow_refs(blocks).map_batches(
            Feeder,
            fn_constructor_args=(self.open_answerer, msgspec.json.encode(self.config), self.seed, window),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,  # it waits; the CPUs are the models'
            compute=ActorPoolStrategy(
                size=self.num_feeders,
                max_concurrent_calls_per_actor=num_calls,
                max_tasks_in_flight_per_actor=num_calls + 1,
            ),
        )
        yield from results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def block_rows(max_in_flight: int) -> int:
    """Lines of a block: few, as its results come together, and not too few, as each costs milliseconds."""
    return min(MAX_BLOCK_ROWS, max(1, max_in_flight // BLOCKS_PER_WINDOW))


def _quieten() -> None:
    """The job has a progress bar of its own."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray.data", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.ERROR)
