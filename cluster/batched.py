"""Calls of ``generate`` whose rows the engine runs side by side, and what comes back of them."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from actors.engine.native_generation import NativeCall
from actors.request_stats import RequestStats
from cluster.background import BackgroundLoop
from cluster.calls import GenerateCall
from cluster.deferred import deferred_output
from cluster.generation_client import Emit, ModelClient, run_requests
from cluster.outputs import ClusterGenerateOutput, EmittedRows, pad_rows
from cluster.streaming import Streamer, StreamFeed


@dataclass(frozen=True)
class Rows:
    """What the engine made of a call: ``sequences`` (rows, width + longest) ids, and each row's drafting."""

    sequences: torch.Tensor
    stats: tuple[RequestStats, ...]


def run_rows(
    loop: BackgroundLoop,
    client: ModelClient,
    call: GenerateCall,
    model: str,
    max_num_requests: int,
    *,
    streamer: Streamer | None,
) -> Rows:
    """Run the rows of a call, and feed its streamer as tokens come."""
    feed = None if streamer is None else StreamFeed(streamer, call.pad_token_id)
    if feed is not None:
        feed.begin(call.prompts.input_ids)
    emitted = EmittedRows(len(call.prompts.rows))

    async def produce(emit: Emit) -> None:
        await run_requests(client, call.requests(), model, max_num_requests, emit)

    with closing(loop.iterate(produce)) as deltas:
        for index, delta in deltas:
            emitted.add(index, delta)
            if feed is not None:
                feed.advance(emitted)
    if feed is not None:
        feed.end()
    return Rows(pad_rows(call.prompts.input_ids, emitted.rows, call.pad_token_id), emitted.stats())


def engine_output(
    rows: Rows, call: GenerateCall, compute_cache: Callable[[], Any]
) -> torch.Tensor | ClusterGenerateOutput:
    """The result of a call as it asked for it.

    Args:
        rows: what came of it.
        call: what was asked.
        compute_cache: makes an output with ``past_key_values``. The engine's blocks are others' by now, so a target
            computes them again if somebody reads the field.
    """
    if not call.return_dict:
        return rows.sequences
    small = {"sequences": rows.sequences, "seed": call.seed, "stats": rows.stats}
    large = ("past_key_values",) if call.use_cache else ()
    found: ClusterGenerateOutput = deferred_output(
        ClusterGenerateOutput, small, large, lambda name: compute_cache()[name]
    )
    return found


def cache_call(sequences: torch.Tensor, call: GenerateCall) -> NativeCall:
    """The call whose output has the keys and values of all ids but the last, as ``generate`` leaves them."""
    known = sequences[:, :-1]
    num_new = known.shape[1] - call.prompts.width
    mask = torch.nn.functional.pad(call.prompts.attention_mask.long(), (0, num_new), value=1)
    arguments = {"inputs": known, "attention_mask": mask, "max_new_tokens": 1, "return_dict_in_generate": True}
    return NativeCall(arguments=arguments, defaults=GenerationConfig(pad_token_id=call.pad_token_id))
