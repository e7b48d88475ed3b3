"""Ways to drive an engine in tests: tiny loaded models, prompts, and a run to the end with scripted drafts."""

import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from actors.engine.loaded import LoadedModel
from actors.engine.params import GenerationParams
from actors.engine.request import Delta, Request
from tests.actors.engine.tiny_models import VOCAB_SIZE, make_tiny

Drafter = Callable[[str, list[int]], Sequence[int]]
"""Takes a request id and all ids of its sequence so far, gives ids to propose."""


@cache
def tiny_loaded(architecture: str, seed: int = 0) -> LoadedModel:
    """A tiny random model in float32, made once a process."""
    path = make_tiny(architecture, Path(mkdtemp()) / architecture, seed=seed)
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    return LoadedModel(
        model=model,
        tokenizer=None,
        generation_config=model.generation_config,
        num_blocks=256,
        weight_bytes=0,
        kv_bytes_per_token=0,
    )


def tiny_engine(architecture: str = "llama", seed: int = 0, **config: object) -> Engine:
    """An engine over a tiny model; small blocks, so that a few dozen tokens take several."""
    return Engine(tiny_loaded(architecture, seed), EngineConfig(**{"block_size": 4, "num_blocks": 256, **config}))  # type: ignore[arg-type]


def ragged_prompts(count: int, seed: int = 0, longest: int = 40) -> list[tuple[int, ...]]:
    """Prompts of different lengths, ids without the special ones."""
    source = random.Random(seed)
    return [tuple(source.randrange(4, VOCAB_SIZE) for _ in range(source.randint(1, longest))) for _ in range(count)]


def requests(
    prompts: Sequence[tuple[int, ...]], params: GenerationParams | Sequence[GenerationParams]
) -> list[Request]:
    """One request a prompt, named r0, r1, ..."""
    each = [params] * len(prompts) if isinstance(params, GenerationParams) else params
    return [
        Request(request_id=f"r{index}", prompt_token_ids=prompt, params=each[index])
        for index, prompt in enumerate(prompts)
    ]


def run(engine: Engine, todo: Sequence[Request], drafter: Drafter | None = None) -> dict[str, list[Delta]]:
    """Run requests to their ends, checking the engine's books after each step; all deltas by request."""
    deltas: dict[str, list[Delta]] = {request.request_id: [] for request in todo}
    ids = {request.request_id: list(request.prompt_token_ids + request.emitted_token_ids) for request in todo}
    for request in todo:
        engine.add(request)
    for _ in range(100_000):
        if not engine.has_work():
            break
        for delta in engine.step():
            deltas[delta.request_id].append(delta)
            ids[delta.request_id] += delta.token_ids
            if drafter is not None and delta.finish_reason is None:
                sequence = ids[delta.request_id]
                engine.propose(delta.request_id, len(sequence), drafter(delta.request_id, sequence))
        engine.check_integrity()
    assert engine.num_unfinished() == 0
    stats = engine.stats()
    assert stats.num_free_blocks == stats.num_blocks
    return deltas


def tokens(deltas: dict[str, list[Delta]]) -> dict[str, list[int]]:
    """Emitted ids by request; fails where deltas overlap or leave gaps."""
    result: dict[str, list[int]] = {}
    for request_id, items in deltas.items():
        got: list[int] = []
        for delta in items:
            assert delta.start == len(got), f"{request_id}: a delta starts at {delta.start} behind {len(got)} tokens"
            got += delta.token_ids
        result[request_id] = got
    return result


def generate(architecture: str, prompt: Sequence[int], max_new_tokens: int, **kwargs: object) -> list[int]:
    """New ids by transformers' own greedy ``generate`` with eager attention, one prompt alone."""
    model: Any = tiny_loaded(architecture).model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        ids = torch.tensor([list(prompt)])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False, **kwargs
        )
    finally:
        model.set_attn_implementation(before)
    return [int(token) for token in out[0, len(prompt) :]]
