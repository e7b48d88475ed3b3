"""A batch job from its file of requests to its file of results."""

import contextlib
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from ray.exceptions import RayError

from actors.engine.errors import ConfigError, SlipstreamError
from actors.status import ClusterStats
from cluster.batch.answering import OpenAnswerer
from cluster.batch.ledger import JobHeader, Ledger
from cluster.batch.pipeline import IN_FLIGHT_PER_SEQUENCE, Pipeline
from cluster.batch.plan import Entry, Plan, in_order, read_plan
from cluster.batch.progress import Progress, Report
from cluster.batch.records import BatchError, Key, error_record
from cluster.config import ClusterConfig

logger = logging.getLogger(__name__)

MAX_NUM_BARREN_RUNS = 3
REST_SECONDS = 2.0
STATS_INTERVAL = 5.0


@dataclass(frozen=True)
class BatchJob:
    """What to run.

    Attributes:
        seed: from which requests without a seed get theirs.
        max_in_flight: requests that the cluster has at a time; None fits it to the target pool.
        num_feeders: actors that hand requests to the cluster; None takes one for each target.
    """

    input: Path
    output: Path
    seed: int = 0
    max_in_flight: int | None = None
    num_feeders: int | None = None


class BatchCluster(Protocol):
    """What a job needs of a running cluster. :class:`cluster.session.Cluster` is one."""

    config: ClusterConfig

    def stats(self) -> ClusterStats:
        """The cluster's state. Raises SlipstreamError where its router cannot be reached."""


OpenCluster = Callable[[], contextlib.AbstractContextManager[BatchCluster]]


def run_job(
    job: BatchJob,
    open_cluster: OpenCluster,
    open_answerer: OpenAnswerer,
    *,
    max_barren_runs: int = MAX_NUM_BARREN_RUNS,
    rest_seconds: float = REST_SECONDS,
) -> Report:
    """Do what is not done yet, and report.

    Args:
        job: what to run.
        open_cluster: connects to a cluster or starts one; closing what it gives ends what it started.
        open_answerer: connects feeders to it.
        max_barren_runs: runs in a row that may end early without a single result before the job gives up.
        rest_seconds: between two runs.

    Raises:
        BatchError: the files cannot be used, or the cluster failed again and again. What was done stays done.
        ConfigError: no cluster could be started as configured.
    """
    plan = read_plan(job.input)
    with Ledger(job.output, JobHeader(input_sha256=plan.sha256, seed=job.seed)) as ledger:
        num_before = len(ledger.done)
        ledger.append((e.key, error_record(e.key, e.number, e.problem)) for e in plan.entries if e.problem)
        run = _Run(job, plan, ledger, open_cluster, open_answerer)
        num_barren = 0
        try:
            while run.todo():
                num_done = len(ledger.done)
                try:
                    run.once()
                except Exception as error:
                    if not _is_passing(error):
                        raise
                    num_barren = num_barren + 1 if len(ledger.done) == num_done else 0
                    reason = _reason(error)
                    if num_barren >= max_barren_runs:
                        raise BatchError(f"given up after {num_barren} runs without a result: {reason}") from error
                    logger.warning("a run ended early, going on with what is left: %s", reason)
                    time.sleep(rest_seconds)
        finally:
            run.close()
        return run.report(num_before)


class _Run:
    """The part of a job that may have to be done over again."""

    def __init__(
        self, job: BatchJob, plan: Plan, ledger: Ledger, open_cluster: OpenCluster, open_answerer: OpenAnswerer
    ) -> None:
        self._job = job
        self._plan = plan
        self._ledger = ledger
        self._open_cluster = open_cluster
        self._open_answerer = open_answerer
        self._progress: Progress | None = None
        self._start_seconds = 0.0
        self._seconds = 0.0
        self._stats_at = 0.0

    def todo(self) -> list[Entry]:
        """What has no result yet."""
        return [entry for entry in self._plan.entries if entry.key not in self._ledger.done]

    def once(self) -> None:
        """Open the cluster and run all that is left. Raises what ended it early."""
        asked = time.monotonic()
        with self._open_cluster() as cluster:
            ready = time.monotonic()
            self._start_seconds += ready - asked
            self._ledger.bind(model_name(cluster.config))
            if self._progress is None:
                self._progress = Progress(len(self._plan.entries), len(self._ledger.done))
            self._note(cluster, is_due=True)
            try:
                for table in self._pipeline(cluster.config).run(self._plan, in_order(self.todo())):
                    self._write(table)
                    self._note(cluster)
                self._note(cluster, is_due=True)
            finally:
                self._seconds += time.monotonic() - ready

    def close(self) -> None:
        """Leave the progress bar as it is."""
        if self._progress is not None:
            self._progress.close()

    def report(self, num_before: int) -> Report:
        """What came of all runs together."""
        progress = self._progress
        num_tokens = progress.num_completion_tokens if progress else 0
        return Report(
            num_requests=len(self._plan.entries),
            num_done_before=num_before,
            num_failed=self._ledger.num_failed,
            num_prompt_tokens=progress.num_prompt_tokens if progress else 0,
            num_completion_tokens=num_tokens,
            tokens_per_second=num_tokens / self._seconds if self._seconds else 0.0,
            acceptance_rate=progress.drafting.rate if progress else None,
            start_seconds=self._start_seconds,
            seconds=self._seconds,
            output=str(self._ledger.path),
        )

    def _pipeline(self, config: ClusterConfig) -> Pipeline:
        target = config.target
        room = IN_FLIGHT_PER_SEQUENCE * target.worker.engine.max_num_seqs * target.replicas
        return Pipeline(
            open_answerer=self._open_answerer,
            config=config,
            seed=self._job.seed,
            max_in_flight=min(self._job.max_in_flight or room, config.router.max_num_requests),
            num_feeders=self._job.num_feeders or target.replicas,
        )

    def _write(self, table: pa.Table) -> None:
        assert self._progress is not None
        columns = table.to_pydict()
        results: list[tuple[Key, bytes]] = list(zip(columns["key"], columns["record"], strict=True))
        num_new = self._ledger.append(results)
        self._progress.advance(num_new, sum(columns["num_prompt_tokens"]), sum(columns["num_completion_tokens"]))

    def _note(self, cluster: BatchCluster, *, is_due: bool = False) -> None:
        """Look at the cluster's counters now and then; a router that is away for a moment is none of the job's."""
        now = time.monotonic()
        if is_due or now - self._stats_at > STATS_INTERVAL:
            self._stats_at = now
            with contextlib.suppress(SlipstreamError):
                assert self._progress is not None
                self._progress.drafting.note(cluster.stats())


def model_name(config: ClusterConfig) -> str:
    """What texts depend on, in words."""
    model = config.target.worker.model
    return f"{config.name} ({model.quantization}, {model.dtype})"


def _is_passing(error: Exception) -> bool:
    """Whether it may go better next time: actors or the router died, or took too long to start."""
    if isinstance(error, RayError):
        return True
    return isinstance(error, SlipstreamError) and not isinstance(error, ConfigError | BatchError)


def _reason(error: Exception) -> str:
    """In one line: the first error that Ray's account of a failed task names, which is the cause of the others."""
    text = str(error)
    if (cause := re.search(r"^[\w.]+(?:Error|Exception): .*", text, re.MULTILINE)) is not None:
        return cause[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
