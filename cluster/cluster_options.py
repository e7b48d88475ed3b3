"""The command line's options that describe a cluster to start, and the configuration that they make."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., None])

QUANTIZATIONS = click.Choice(["none", "nf4", "fp4", "int8"])
CLUSTER_OPTIONS = (
    click.option("--config", "config_file", type=click.Path(dir_okay=False), help="YAML or JSON file of the cluster."),
    click.option("--assistant-model", help="The draft: path or hub id."),
    click.option("--quantization", type=QUANTIZATIONS, help="How the target is loaded."),
    click.option("--assistant-quantization", type=QUANTIZATIONS, help="How the draft is loaded."),
    click.option("--dtype", default="auto", show_default=True, help="Dtype of what is not quantized."),
    click.option("--device-map", default="auto", show_default=True, help="How a target is spread over devices."),
    click.option("--target-replicas", type=click.IntRange(1), default=1, show_default=True),
    click.option("--draft-replicas", type=click.IntRange(0), help="0 decodes without a draft.  [default: 1]"),
    click.option("--num-gpus", type=click.FloatRange(0), help="GPUs of a target.  [default: shared out]"),
    click.option("--assistant-num-gpus", type=click.FloatRange(0), help="GPUs of a draft."),
    click.option("--num-threads", type=click.IntRange(1), help="CPU threads of an actor.  [default: shared out]"),
    click.option("--num-assistant-tokens", type=click.IntRange(0, 64), help="Draft length.  [default: adapted]"),
)


def cluster_options(command: Command) -> Command:
    """Add the options that describe a cluster to start."""
    for option in reversed(CLUSTER_OPTIONS):
        command = option(command)
    return command


def cluster_config(model: str | None, config_file: str | None, options: dict[str, Any]) -> Any:
    """Build the configuration to start: a file's, or that of the options. Both at once are refused."""
    from cluster.config import ClusterConfig
    from cluster.configure import DEMO, configure

    if config_file is None:
        return configure(model or DEMO, **options)
    context = click.get_current_context()
    given = [name for name in options if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    if model is not None and context.get_parameter_source("model") is click.core.ParameterSource.COMMANDLINE:
        given.append("model")
    if given:
        raise click.UsageError(f"--config describes the whole cluster; leave out {', '.join(sorted(given))}")
    return ClusterConfig.from_file(config_file)
