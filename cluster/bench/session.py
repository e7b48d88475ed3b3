"""A cluster to be measured, with prompts for it: the one that runs, or one that is started for this."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import msgspec

from actors.engine.errors import ConfigError
from cluster.bench.prompts import built_in_prompts, read_prompts
from cluster.bench.run_options import RunOptions
from cluster.bench.runs import Runner
from cluster.cluster_options import cluster_config
from cluster.config import ClusterConfig
from cluster.generation_client import GenerationClient
from cluster.prompting import open_cluster
from cluster.tokenization import load_tokenizer


@dataclass(frozen=True)
class Measured:
    """What is measured.

    Attributes:
        prompts: token ids.
        options: how they are run.
        decode: shows a token.
    """

    runner: Runner
    config: ClusterConfig
    prompts: tuple[tuple[int, ...], ...]
    options: RunOptions
    decode: Callable[[int], str]


@contextlib.contextmanager
def measured_cluster(model: str | None, config_file: str | None, given: Mapping[str, Any]) -> Iterator[Measured]:
    """Open a cluster as the command line asks, and tokenize what it is asked.

    Args:
        model: that must be served; None takes what the running cluster serves, or else of ``config_file``, or demo.
        config_file: of the cluster to start where none runs.
        given: values of :data:`cluster.bench.options.RUN_OPTIONS` and of the options that describe a cluster.

    Raises:
        SlipstreamError: another model is served, or the cluster cannot be started.
        ConfigError: no prompts, or no tokenizer for them.
    """
    rest = dict(given)
    options = RunOptions(**{field.name: rest.pop(field.name) for field in fields(RunOptions)})
    file, count, overlap = (rest.pop(name) for name in ("prompts_file", "num_prompts", "overlap"))
    texts = built_in_prompts() if file is None else read_prompts(file)
    config = with_overlap(cluster_config(model, config_file, rest), overlap)
    name = config.name if model is not None or config_file is not None else None
    with open_cluster(name, lambda: config) as cluster:
        tokenizer = load_tokenizer(cluster.config.target.worker.model)
        prompts = tuple(tuple(tokenizer(text).input_ids) for text in texts[:count])
        if not all(prompts):
            raise ConfigError("prompts: one of them is empty once it is tokenized")
        with Runner(_connect, cluster.config.name) as runner:
            yield Measured(runner, cluster.config, prompts, options, lambda token: str(tokenizer.decode([token])))


def with_overlap(config: ClusterConfig, overlap: bool | None) -> ClusterConfig:
    """The configuration with drafts that write ahead or do not; None leaves it as it is."""
    if overlap is None:
        return config
    return msgspec.structs.replace(config, router=msgspec.structs.replace(config.router, overlap=overlap))


async def _connect() -> GenerationClient:
    from actors.router_client import RouterClient

    client: GenerationClient = await RouterClient.connect()
    return client
