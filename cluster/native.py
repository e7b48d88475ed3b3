"""Calls of ``generate`` that transformers' own code runs, in a target actor, on the target's weights."""

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from actors.engine.errors import RequestError
from actors.engine.native_generation import NativeCall
from actors.native_client import Result
from actors.native_job import Tokens
from cluster.background import BackgroundLoop
from cluster.config import ClusterConfig
from cluster.deferred import deferred_output
from cluster.generation_client import ModelClient
from cluster.named import NAMED_AS, named_processors
from cluster.streaming import Streamer

logger = logging.getLogger(__name__)


def native_call(
    arguments: Mapping[str, Any], *, defaults: GenerationConfig, seed: int | None, is_streamed: bool
) -> NativeCall:
    """Gather one call.

    Args:
        arguments: of ``generate`` by name; those that are None are left out.
        defaults: the model's, as the caller has them.
        seed: of the call. None draws one where the call samples, so that it may be run again.
        is_streamed: whether a streamer waits for tokens.

    Raises:
        RequestError: the seed is not one.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    named = {wire: found for name, wire in NAMED_AS.items() if (found := named_processors(name, given.get(name)))}
    given = {name: value for name, value in given.items() if NAMED_AS.get(name) not in named}
    if given.pop("synced_gpus", None):
        logger.info("synced_gpus is for ranks that run one model in step; a cluster's actors do not, so it is ignored")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise RequestError(f"seed: an integer from 0 to 2^63 - 1 is needed, but it is {seed!r}", field="seed")
    if seed is None and _samples(given, defaults):
        seed = int(torch.randint(0, 2**63 - 1, (1,)))
    return NativeCall(arguments=given, defaults=defaults, seed=seed, is_streamed=is_streamed, **named)


def local_assistant(assistant: Any, cluster: object, config: ClusterConfig) -> PreTrainedModel | None:
    """A model of the caller's own that is to assist; None where the cluster's drafts are meant.

    Raises:
        RequestError: neither a PreTrainedModel, nor this cluster, nor the name of its draft model.
    """
    if assistant is None or assistant is cluster:
        return None
    if isinstance(assistant, PreTrainedModel):
        return assistant
    names = [] if config.draft is None else [config.draft.worker.model.model]
    if isinstance(assistant, str) and assistant in names:
        return None
    raise RequestError(
        f"assistant_model: the drafts here are {', '.join(names) or 'none'}, but it is {assistant!r:.80}; "
        "give one of these names, or a PreTrainedModel",
        field="assistant_model",
        limit=", ".join(names),
    )


def device_of(arguments: Mapping[str, Any]) -> torch.device:
    """Where the caller's tensors are, and with them the result."""
    given = (value for value in arguments.values() if isinstance(value, torch.Tensor))
    return next((value.device for value in given), torch.device("cpu"))


def run_call(
    loop: BackgroundLoop,
    client: ModelClient,
    call: NativeCall,
    model: str,
    *,
    streamer: Streamer | None,
    device: torch.device,
) -> Any:
    """Run a call, feed its streamer as tokens come, and return its result.

    Token ids are put on ``device``; an output object has the call's ``seed``.
    """

    async def produce(emit: Callable[[Tokens | Result], None]) -> None:
        async for item in client.run_native(call, model):
            emit(item)

    with closing(loop.iterate(produce)) as items:
        for item in items:
            if isinstance(item, Result):
                if streamer is not None:
                    streamer.end()
                return _output(item, call.seed, device)
            if streamer is not None:
                streamer.put(item.token_ids)
    raise AssertionError("a run ended without a result")


def _output(result: Result, seed: int | None, device: torch.device) -> Any:
    output = result.output
    if output.kind is None:
        return output.value.to(device) if isinstance(output.value, torch.Tensor) else output.value
    small = {name: value.to(device) for name, value in output.small.items()}
    found = deferred_output(output.kind, small, output.large, result.fetch)
    found.seed = seed
    return found


def _samples(arguments: Mapping[str, Any], defaults: GenerationConfig) -> bool:
    given = arguments.get("generation_config")
    wishes = [arguments.get("do_sample"), getattr(given, "do_sample", None), defaults.do_sample]
    return bool(next((wish for wish in wishes if wish is not None), False))
