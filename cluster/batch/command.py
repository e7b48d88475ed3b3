"""``slipstream batch``: which cluster, which files, and what is said at the end."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from actors.engine.errors import SlipstreamError
from cluster.batch.answering import OpenAnswerer
from cluster.batch.job import BatchJob, run_job
from cluster.batch.records import BatchError
from cluster.config import ClusterConfig
from cluster.session import Cluster

SETTLE_SECONDS = 1.5  # in which the router of a driver that was just killed goes
FOLDER_VARIABLE = "SLIPSTREAM_BATCH_DIR"
JOB_COPY = "working_dir_files"  # part of the path of the copy in which Ray runs a job that has a working directory


def run_batch(
    fields: Mapping[str, Any],
    *,
    model: str | None,
    make_config: Callable[[], ClusterConfig],
    open_answerer: OpenAnswerer,
    report_file: Path | None = None,
) -> None:
    """Run a batch job and say on stderr what it came to.

    Args:
        fields: of :class:`cluster.batch.job.BatchJob`.
        model: the model that must be served; None takes what the running cluster serves.
        make_config: called where no cluster runs, for the one to start.
        open_answerer: connects to the cluster and answers as the routes do.
        report_file: where the report goes as JSON.

    Raises:
        SlipstreamError: as :func:`cluster.batch.job.run_job`.
    """
    job = BatchJob(**{**fields, "output": resolve_output(fields["output"])})
    report = run_job(job, lambda: running_or_started(model, make_config), open_answerer)
    if report_file is not None:
        resolve_output(report_file).write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    for line in report.lines():
        click.echo(line, err=True)


@contextlib.contextmanager
def running_or_started(model: str | None, make_config: Callable[[], ClusterConfig]) -> Iterator[Cluster]:
    """The cluster that runs, which is left running, or else one that is started and shut down again.

    Raises SlipstreamError where another model is served.
    """
    try:
        cluster = _connect()
    except SlipstreamError:
        cluster = _start(make_config())
    with cluster:
        if model is not None and model != cluster.config.name:
            raise BatchError(f"a cluster runs already and serves {cluster.config.name!r}, not {model!r}")
        yield cluster


def _connect() -> Cluster:
    cluster = Cluster.connect()
    try:
        time.sleep(SETTLE_SECONDS)
        cluster.stats()
    except BaseException:
        cluster.shutdown()
        raise
    return cluster


def _start(config: ClusterConfig) -> Cluster:
    try:
        return Cluster.start(config)
    except ValueError as error:
        if isinstance(error, SlipstreamError):
            raise
        raise SlipstreamError(str(error)) from error  # names that actors of a killed driver still have for a moment


def resolve_output(path: Path) -> Path:
    """Where results go. A Ray job with a working directory runs in a copy of it that nobody sees and that goes away.

    There a relative path is taken from ``$SLIPSTREAM_BATCH_DIR``, or from ``~/slipstream-batch``.
    """
    if path.is_absolute() or JOB_COPY not in Path.cwd().parts:
        return path.absolute()
    return Path(os.environ.get(FOLDER_VARIABLE, "~/slipstream-batch")).expanduser() / path
