"""Calls of ``generate`` that transformers' own code runs, in a target actor, on the target's weights."""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.utils.generic import ModelOutput

from actors.drafter import NO_DRAFT
from actors.engine.errors import RequestError
from actors.engine.native_generation import NativeCall, to_device, wish
from actors.native_client import Result
from actors.native_job import Tokens
from cluster.background import BackgroundLoop
from cluster.config import ClusterConfig
from cluster.deferred import deferred_output
from cluster.generation_client import ModelClient
from cluster.inputs import check_vocabulary
from cluster.named import NAMED_AS, named_processors
from cluster.refusals import refusal_of
from cluster.streaming import Streamer

logger = logging.getLogger(__name__)

RETURN_DICT = "return_dict_in_generate"
ID_ARGUMENTS = ("inputs", "input_ids", "decoder_input_ids", "negative_prompt_ids")
FORCED_ARGUMENTS = ("forced_bos_token_id", "forced_eos_token_id", "decoder_start_token_id")


def native_call(
    arguments: Mapping[str, Any],
    *,
    defaults: GenerationConfig,
    vocab_size: int | None,
    seed: int | None,
    is_streamed: bool,
) -> NativeCall:
    """Gather one call of ``generate``.

    Args:
        arguments: of ``generate`` by name. None says something of fields of ``GenerationConfig`` alone: it switches
            a default off.
        defaults: the model's, as the caller has them.
        vocab_size: bounds the ids; None does not check them.
        seed: of the call. None draws one where the call samples, so that it may be run again.
        is_streamed: whether a streamer waits for tokens.

    Raises:
        RequestError: the seed is not one, or code is asked for that is in no local folder.
        TokenIdError: an id that the model does not know.
    """
    check_token_ids(arguments, vocab_size)
    check_code(arguments)
    given = {name: value for name, value in arguments.items() if value is not None or hasattr(defaults, name)}
    named: dict[str, Any] = {
        wire: found for name, wire in NAMED_AS.items() if (found := named_processors(name, given.get(name)))
    }
    given = {name: value for name, value in given.items() if NAMED_AS.get(name) not in named}
    if given.pop("synced_gpus", None):
        logger.info("synced_gpus is for ranks that run one model in step; a cluster's actors do not, so it is ignored")
    if not isinstance(given.get("custom_generate"), str):
        given.pop("trust_remote_code", None)  # which would fetch decoding loops that transformers has moved to the hub
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise RequestError(f"seed: an integer from 0 to 2^63 - 1 is needed, but it is {seed!r}", field="seed")
    if seed is None and wish(given, defaults, "do_sample"):
        seed = int(torch.randint(0, 2**63 - 1, (1,)))
    return NativeCall(arguments=given, defaults=defaults, seed=seed, is_streamed=is_streamed, **named)


def forward_call(arguments: Mapping[str, Any], *, vocab_size: int | None) -> NativeCall:
    """Gather one call of the model itself. Raises TokenIdError, as :func:`native_call` does."""
    given = {name: value for name, value in arguments.items() if value is not None}
    check_token_ids(given, vocab_size)
    return NativeCall(arguments=given, method="forward")


def check_code(arguments: Mapping[str, Any]) -> None:
    """Refuse code that does not run on the engine's thread, or that is not the caller's.

    A decoding loop in a folder is run, where the caller trusts it, by an actor that can see the folder.

    Raises:
        RequestError: a decoding loop from the hub (also an OSError, as transformers raises where there is none), or
            transformers' continuous batching, which has threads of its own.
    """
    if arguments.get("cache_implementation") == "paged":
        raise RequestError(
            "cache_implementation: the engine's cache is paged, but this call is run without it; leave 'paged' out",
            field="cache_implementation",
        )
    code = arguments.get("custom_generate")
    if isinstance(code, str) and not Path(code).is_dir():
        raise refusal_of(OSError)(
            f"custom_generate: a function or a local folder is needed, not code from the hub; it is {code!r:.80}",
            field="custom_generate",
        )


def check_token_ids(arguments: Mapping[str, Any], vocab_size: int | None) -> None:
    """Refuse ids beyond the vocabulary before they reach a device: on a GPU they would end everyone's work.

    Raises:
        TokenIdError: an id, in a prompt or to be forced, that the model does not know.
    """
    if vocab_size is None:
        return
    for name in ID_ARGUMENTS:
        value = arguments.get(name)
        if isinstance(value, torch.Tensor) and value.numel() and not (value.is_floating_point() or value.is_complex()):
            check_vocabulary(name, value, vocab_size)
    config = arguments.get("generation_config")
    for name in FORCED_ARGUMENTS:
        value = arguments.get(name, getattr(config, name, None))
        ids = value if isinstance(value, list | tuple) else [value]
        if ids and all(isinstance(token, int) for token in ids):
            check_vocabulary(name, torch.tensor(ids), vocab_size)


def find_assistant(assistant: Any, cluster: object, config: ClusterConfig) -> PreTrainedModel | str | None:
    """Who is to assist: a model of the caller's own, a draft of the cluster by name, or None for its default.

    Raises:
        RequestError: neither a PreTrainedModel, nor this cluster, nor the name of one of its drafts; an AttributeError
            as well, as transformers raises.
    """
    if assistant is None or assistant is cluster:
        return None
    if isinstance(assistant, PreTrainedModel):
        return assistant
    names = [*config.draft_models, NO_DRAFT]
    if isinstance(assistant, str) and assistant in names:
        return assistant
    raise refusal_of(AttributeError)(
        f"assistant_model: the drafts here are {', '.join(names)}, but it is {assistant!r:.80}; "
        "give one of these names, or a PreTrainedModel",
        field="assistant_model",
        limit=", ".join(names),
    )


def device_of(arguments: Mapping[str, Any], default: torch.device) -> torch.device:
    """Where the caller's tensors are, and with them the result; ``default`` where none was given."""
    given = (value for value in arguments.values() if isinstance(value, torch.Tensor))
    return next((value.device for value in given), default)


def run_call(
    loop: BackgroundLoop,
    client: ModelClient,
    call: NativeCall,
    model: str,
    *,
    streamer: Streamer | None,
    device: torch.device,
) -> Any:
    """Run a call, feed its streamer as tokens come, and return its result on ``device``.

    An output object of ``generate`` has the call's ``seed``. A cache that was given has what was computed, as it would
    where the model is in the same process.
    """
    cache = call.arguments.get("past_key_values")
    is_generate = call.method == "generate"
    if isinstance(cache, Cache) and is_generate:  # it comes back with an output object only
        asked = replace(call, arguments={**call.arguments, RETURN_DICT: True})
    else:
        asked = call

    async def produce(emit: Callable[[Tokens | Result], None]) -> None:
        async for item in client.run_native(asked, model):
            emit(item)

    with closing(loop.iterate(produce)) as items:
        output = _follow(items, streamer, device)
    if not isinstance(output, ModelOutput):
        return output
    if isinstance(cache, Cache) and "past_key_values" in output:
        vars(cache).update(vars(output["past_key_values"]))
    if not is_generate:
        return output
    output.seed = call.seed
    return output if asked is call or wish(call.arguments, call.defaults, RETURN_DICT) else output["sequences"]


def _follow(items: Iterable[Tokens | Result], streamer: Streamer | None, device: torch.device) -> Any:
    """Hand tokens to a streamer as they come; return the result."""
    for item in items:
        if isinstance(item, Result):
            if streamer is not None:
                streamer.end()
            return _output(item, device)
        if streamer is not None:
            streamer.put(item.token_ids)
    raise AssertionError("a run ended without a result")


def _output(result: Result, device: torch.device) -> Any:
    output = result.output
    if output.kind is None:
        return output.value.to(device) if isinstance(output.value, torch.Tensor) else output.value
    small = {name: value.to(device) for name, value in output.small.items()}
    return deferred_output(output.kind, small, output.large, lambda name: to_device(result.fetch(name), device))
