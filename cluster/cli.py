"""The command line, ``slipstream``. Each command imports what it needs when it runs, so that ``--help`` is quick."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from actors.engine.errors import SlipstreamError
from cluster import __version__
from cluster.audit.commands import audit
from cluster.bench.commands import bench
from cluster.cluster_options import QUANTIZATIONS, cluster_config, cluster_options

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Errors are one line on stderr; exit code 2 for wrong usage, 1 for what failed."""
    try:
        cli.main(args=arguments, prog_name="slipstream", standalone_mode=False)
    except click.Abort:
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stdout = None  # whoever read the output has gone; do not flush into it
        sys.exit(1)
    except (SlipstreamError, NotImplementedError) as error:
        _fail(str(error))
    except Exception as error:
        if os.environ.get("SLIPSTREAM_DEBUG"):
            raise
        _fail(f"{type(error).__name__}: {error} (SLIPSTREAM_DEBUG=1 shows where)")


def _fail(message: str) -> None:
    click.secho(f"slipstream: {' '.join(message.split())}", fg="red", err=True)
    sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Slipstream: a generation cluster on Ray with speculative decoding."""


@cli.command(short_help="Serve a model over HTTP in the foreground.")
@click.argument("model", default="demo")
@cluster_options
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
def serve(model: str, config_file: str | None, host: str, port: int, **options: Any) -> None:
    """Serve MODEL over HTTP in the foreground: a path, a hub id, or the embedded pair "demo"."""
    from serve_app.run import serve_forever

    serve_forever(cluster_config(model, config_file, options), host, port)


@cli.command(short_help="Generate behind a prompt, streamed to the terminal.")
@click.argument("prompt")
@click.option("--model", help='Path, hub id or "demo".  [default: what the running cluster serves, else demo]')
@cluster_options
@click.option("--max-new-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--temperature", type=click.FloatRange(0), help="Sample at this temperature; 0 is greedy.")
@click.option("--top-k", type=click.IntRange(0))
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True))
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Fixes what is sampled.  [default: drawn]")
def generate(
    prompt: str,
    model: str | None,
    config_file: str | None,
    max_new_tokens: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    **options: Any,
) -> None:
    """Generate behind PROMPT ("-" reads it from stdin) on the running cluster, or on one started for this.

    On a terminal, drafted tokens that the target accepted are green and the target's own are plain.
    """
    from cluster.prompting import generate_text

    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    fields: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
    if temperature == 0:
        fields = {"do_sample": False}
    elif fields:
        fields["do_sample"] = True
    generate_text(
        sys.stdin.read() if prompt == "-" else prompt,
        {**fields, "max_new_tokens": max_new_tokens},
        model=model,
        make_config=lambda: cluster_config(model, config_file, options),
    )


@cli.command(short_help="Run a file of requests and write a file of results.")
@click.option("--input", "input_file", type=click.Path(path_type=Path), required=True, help="Requests, JSON lines.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Results; what stands there is done.")
@click.option("--model", help='Path, hub id or "demo".  [default: what the running cluster serves, else demo]')
@cluster_options
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of requests without.")
@click.option("--max-in-flight", type=click.IntRange(1), help="Requests at a time.  [default: twice what engines run]")
@click.option("--feeders", type=click.IntRange(1), help="Actors that hand requests over.  [default: one a target]")
@click.option("--report", "report_file", type=click.Path(path_type=Path), help="Write the report as JSON too.")
def batch(
    input_file: Path,
    output: Path,
    model: str | None,
    config_file: str | None,
    seed: int,
    max_in_flight: int | None,
    feeders: int | None,
    report_file: Path | None,
    **options: Any,
) -> None:
    """Run a file of requests on the running cluster, or on one started for this; OpenAI's batch format in and out.

    Given again after it was cut off, the same command does what is not done yet. Results come in the order in which
    they are ready; their custom_id says whose they are.
    """
    from cluster.batch.command import run_batch
    from serve_app.offline import open_answerer

    def make_config() -> Any:
        return cluster_config(model, config_file, options)

    run_batch(
        {"input": input_file, "output": output, "seed": seed, "max_in_flight": max_in_flight, "num_feeders": feeders},
        model=model if config_file is None else make_config().name,
        make_config=make_config,
        open_answerer=open_answerer,
        report_file=report_file,
    )


@cli.command(short_help="Say how many GPUs a model and its draft need.")
@click.argument("model", default="demo")
@click.option("--gpu", required=True, help="A name such as L4, A100-80GB, H100, or a size such as 24GiB.")
@click.option("--assistant-model", help="The draft: path or hub id.")
@click.option("--quantization", type=QUANTIZATIONS, help="How the target is loaded.")
@click.option("--assistant-quantization", type=QUANTIZATIONS, help="How the draft is loaded.")
@click.option("--dtype", default="auto", show_default=True, help="Dtype of what is not quantized.")
@click.option("--streams", "num_streams", type=click.IntRange(1), default=16, show_default=True, help="At a time.")
@click.option("--context", type=click.IntRange(2), help="Tokens of each stream.  [default: the model's, up to 8192]")
@click.option("--json", "as_json", is_flag=True, help="Print plain data.")
def plan(model: str, gpu: str, as_json: bool, **options: Any) -> None:
    """Say how many GPUs MODEL and its draft need, from their configurations alone, and print fields for a manifest."""
    from cluster.plan import plan_cluster, show_plan

    show_plan(plan_cluster(model, gpu, **options), as_json=as_json)


@cli.command(short_help="Show the running cluster.")
@click.option("--json", "as_json", is_flag=True, help="Print plain data.")
def status(as_json: bool) -> None:
    """Show the running cluster: actors, models, devices, load, acceptance."""
    from cluster.status import fetch_stats, show_stats

    show_stats(fetch_stats(), as_json=as_json)


@cli.command()
@click.option("--example", is_flag=True, help="Print the embedded pair's configuration as YAML instead.")
def config(example: bool) -> None:
    """Print the JSON Schema of a cluster's configuration."""
    import json

    import msgspec

    from cluster.config import ClusterConfig

    if not example:
        click.echo(json.dumps(msgspec.json.schema(ClusterConfig), indent=2))
        return
    import yaml

    click.echo("# slipstream serve --config FILE; what is left out has its default (see: slipstream config)")
    click.echo(yaml.safe_dump(msgspec.to_builtins(ClusterConfig.demo()), sort_keys=False), nl=False)


cli.add_command(audit)
cli.add_command(bench)


if __name__ == "__main__":
    main()
