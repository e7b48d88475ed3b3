"""``slipstream bench`` and its commands. What each does is imported when it runs."""

import sys
from pathlib import Path
from typing import Any

import click

from cluster.bench.options import PATH, RESULT_OPTIONS, RUN_OPTIONS, counts, options
from cluster.cluster_options import cluster_options


@click.group(short_help="Measure a model, a server, or this project.")
def bench() -> None:
    """Measure: a model with and without drafts, a running server under load, or the project's own suites."""


@bench.command(short_help="Measure a model plain, with adapted and with fixed draft lengths.")
@click.argument("model", required=False)
@cluster_options
@options(RUN_OPTIONS)
@click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy.")
@options(RESULT_OPTIONS)
def generate(model: str, config_file: str | None, json_file: Path | None, plot_file: Path | None, **given: Any) -> None:
    """Measure MODEL on the running cluster, or on one started for this.

    MODEL is a path, a hub id, or "demo"; by default what the running cluster serves, else demo.
    """
    from rich.console import Console

    from cluster.bench.generate import measure_generation
    from cluster.bench.results import save_results
    from cluster.bench.session import measured_cluster

    with measured_cluster(model, config_file, given) as measured:
        result = measure_generation(measured.runner, measured.config, measured.prompts, measured.options)
    result.show(Console())
    save_results(result, json_file, plot_file)


@bench.command(short_help="Measure a running server under load.")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Of a server with OpenAI's API.")
@click.option("--model", help="As the server names it.  [default: the first that it lists]")
@click.option("--endpoint", type=click.Choice(["completions", "chat"]), default="completions", show_default=True)
@click.option("--api-key", envvar="SLIPSTREAM_API_KEY", help="[env: SLIPSTREAM_API_KEY]")
@click.option(
    "--concurrency",
    callback=counts(1, 4096),
    default="1,4,16",
    show_default=True,
    metavar="N,N,...",
    help="Requests at a time, level by level.",
)
@click.option("--num-requests", type=click.IntRange(1), help="At each concurrency.  [default: 4 for each at a time]")
@click.option("--max-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--prompts", "prompts_file", type=PATH, help="A prompt a line, or JSON lines.  [default: built in]")
@click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--ignore-eos", is_flag=True, help="Go on to --max-tokens.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True, help="Seconds.")
@options(RESULT_OPTIONS)
def serve(
    concurrency: tuple[int, ...],
    num_requests: int | None,
    prompts_file: Path | None,
    json_file: Path | None,
    plot_file: Path | None,
    **load: Any,
) -> None:
    """Measure a server that streams: time to a first token, between tokens, tokens a second, acceptance."""
    from rich.console import Console

    from cluster.bench.load import Load
    from cluster.bench.prompts import built_in_prompts, read_prompts
    from cluster.bench.results import save_results
    from cluster.bench.serve import measure_server

    prompts = built_in_prompts() if prompts_file is None else read_prompts(prompts_file)
    result = measure_server(Load(**load), prompts, concurrency, num_requests)
    result.show(Console())
    save_results(result, json_file, plot_file)


@bench.command(short_help="Run suites of the project's own, from a checkout.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--list", "is_list", is_flag=True, help="List the suites.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Runs that count.")
def suite(names: tuple[str, ...], is_list: bool, repeats: int) -> None:
    """Run suites of tests/benchmarks, all of them by default; each leaves a JSON file and a picture in its results."""
    from cluster.bench.suites import list_suites, run_suites

    if is_list:
        for name, what in list_suites().items():
            click.echo(f"{name:<20}{what}")
        return
    sys.exit(run_suites(names, repeats))
