"""``slipstream generate``: one prompt, its tokens streamed to the terminal as they come."""

import asyncio
import contextlib
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import click

from actors.engine.errors import GenerationError, SlipstreamError
from actors.engine.request import Delta, FinishReason, Request
from cluster.config import ClusterConfig
from cluster.defaults import generation_defaults
from cluster.generation import resolve_params
from cluster.generation_client import GenerationClient
from cluster.session import Cluster
from cluster.terminal import RunSummary, TokenPrinter
from cluster.tokenization import load_tokenizer


def generate_text(
    prompt: str, fields: dict[str, Any], *, model: str | None, make_config: Callable[[], ClusterConfig]
) -> None:
    """Write ``prompt`` and what a cluster generates behind it to stdout, and a summary to stderr.

    Args:
        prompt: the text to go on from.
        fields: generation parameters over the model's defaults.
        model: the model that must be served, the target's or a draft's; None takes the running cluster's target.
        make_config: called where no cluster runs, for the one to start.

    Raises:
        SlipstreamError: a refused parameter, another model, a failed run.
    """
    with open_cluster(model, make_config) as cluster:
        name = model or cluster.config.name
        model_config = cluster.config.models[name]
        tokenizer = load_tokenizer(model_config)
        prompt_ids = tuple(tokenizer(prompt).input_ids)
        params = resolve_params(
            generation_defaults(model_config),
            {"seed": secrets.randbits(62), **fields},
            num_prompt_tokens=len(prompt_ids),
        )
        request = Request(request_id=f"cli-{uuid.uuid4().hex}", prompt_token_ids=prompt_ids, params=params)
        click.echo(prompt, nl=False)
        printer = TokenPrinter(lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)), prompt_ids)
        summary = asyncio.run(_stream(request, name, printer))
    click.echo(summary.line(params.seed if params.do_sample else None), err=True)


@contextlib.contextmanager
def open_cluster(model: str | None, make_config: Callable[[], ClusterConfig]) -> Iterator[Cluster]:
    """The cluster that runs, which is left running, or one that is started and shut down again."""
    try:
        cluster = Cluster.connect()
    except SlipstreamError:
        cluster = Cluster.start(make_config())
    with cluster:
        if model is not None and model not in cluster.config.models:
            names = ", ".join(map(repr, cluster.config.models))
            raise SlipstreamError(f"a cluster runs already and serves {names}, not {model!r}")
        yield cluster


async def _stream(request: Request, model: str, printer: TokenPrinter) -> RunSummary:
    from actors.router_client import RouterClient

    client = await RouterClient.connect()
    try:
        return await stream_deltas(client, request, model, printer)
    finally:
        await client.close()


async def stream_deltas(client: GenerationClient, request: Request, model: str, printer: TokenPrinter) -> RunSummary:
    """Print a request's tokens as they come. Raises GenerationError where it fails."""
    summary = RunSummary()
    started = time.perf_counter()
    async for delta in client.generate(request, model):
        _check(delta)
        summary.add(delta, time.perf_counter() - started)
        printer.put(delta)
    printer.end()
    return summary


def _check(delta: Delta) -> None:
    if delta.finish_reason is FinishReason.ERROR:
        raise GenerationError(delta.error or "generation failed")
