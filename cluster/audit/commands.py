"""``slipstream audit``. What it does is imported when it runs."""

import sys
from pathlib import Path
from typing import Any

import click

from cluster.bench.options import RESULT_OPTIONS, RUN_OPTIONS, options
from cluster.cluster_options import cluster_options

BROKEN = 3


@click.command(short_help="Compare a model's texts and speed with and without drafts.")
@click.argument("model", required=False)
@cluster_options
@options(RUN_OPTIONS)
@click.option("--temperature", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True)
@options(RESULT_OPTIONS)
@click.option("--strict", is_flag=True, help=f"Exit with {BROKEN} if a float32 target's texts differ.")
def audit(
    model: str | None,
    config_file: str | None,
    json_file: Path | None,
    plot_file: Path | None,
    strict: bool,
    **given: Any,
) -> None:
    """Run prompts through MODEL plain and assisted, greedy and sampled with the same seeds, and compare.

    MODEL is a path, a hub id, or "demo"; by default what the running cluster serves, else demo.

    Says where texts part and by what margin, how often drafts are right at each position, what forwards of target and
    draft take by the tokens in them, and what speculation brings beside what the cost model says it should.
    """
    from rich.console import Console

    from cluster.audit.audit import audit as run_audit
    from cluster.bench.results import save_results
    from cluster.bench.session import measured_cluster

    with measured_cluster(model, config_file, given) as measured:
        report = run_audit(measured.runner, measured.config, measured.prompts, measured.options, measured.decode)
    report.show(Console())
    save_results(report, json_file, plot_file)
    if strict and report.is_broken:
        sys.exit(BROKEN)
