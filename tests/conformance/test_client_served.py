"""The client and a cluster on Ray: calls of transformers' own code, named processors beside drafts, over a socket."""

import asyncio
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from actors.engine.config import ModelConfig
from actors.engine.errors import GenerationError, RequestError
from actors.engine.loading import load_model
from cluster.client import Client
from tests.conformance.conftest import ClusterServer, make_config

pytestmark = pytest.mark.anyio
PROMPT = "It was a dark night"


@cache
def reference() -> tuple[Any, Any]:
    """The target in transformers' hands, and its tokenizer."""
    config = make_config()
    loaded = load_model(ModelConfig(model="demo", dtype="float32"), config.target.worker.engine)
    return loaded.model, loaded.tokenizer


def expected(**arguments: Any) -> Any:
    model, tokenizer = reference()
    ids = torch.tensor([tokenizer(PROMPT).input_ids])
    return model.generate(ids, attention_mask=torch.ones_like(ids), return_dict_in_generate=True, **arguments)


async def test_beams_with_scores_and_states(served: ClusterServer) -> None:
    arguments: dict[str, Any] = {
        "max_new_tokens": 12,
        "do_sample": False,  # the demo's own default is to sample
        "num_beams": 3,
        "output_scores": True,
        "output_hidden_states": True,
    }
    want = expected(**arguments)
    async with Client(served.url) as client:
        found = await client.generate(PROMPT, **arguments)
    assert found.sequences.tolist() == want.sequences.tolist()
    assert np.allclose(found.sequences_scores, want.sequences_scores.numpy(), atol=1e-4)
    assert np.allclose(np.stack(found.scores), torch.stack(want.scores).numpy(), atol=1e-3)
    assert [len(step) for step in found.hidden_states] == [len(step) for step in want.hidden_states]
    _, tokenizer = reference()
    width = len(tokenizer(PROMPT).input_ids)
    assert found.texts == [tokenizer.decode(want.sequences[0, width:], skip_special_tokens=True)]


async def test_a_call_and_a_stream_side_by_side(served: ClusterServer) -> None:
    arguments: dict[str, Any] = {"max_new_tokens": 40, "do_sample": False}
    want = expected(**arguments)

    async def read(client: Client) -> list[int]:
        return [token async for piece in client.stream(PROMPT, **arguments) for token in piece.token_ids]

    async with Client(served.url) as client:
        found, tokens = await asyncio.gather(
            client.generate(PROMPT, max_new_tokens=20, guidance_scale=1.5, negative_prompt="It was a bright day"),
            read(client),
        )
    assert tokens == want.sequences[0, -len(tokens) :].tolist()
    assert len(found.answer.sequences[0].token_ids) > 0


async def test_named_processors_beside_drafts(served: ClusterServer) -> None:
    """Drafts follow them as well, or nothing that they wrote would be accepted."""
    async with Client(served.url) as client:
        pieces = [
            piece
            async for piece in client.stream(
                PROMPT,
                max_new_tokens=48,
                logits_processor=[{"name": "ban_every", "args": {"step": 2, "offset": 1}}],
                stopping_criteria=[{"name": "end_at_length", "args": {"num_tokens": 30}}],
            )
        ]
    tokens = [token for piece in pieces for token in piece.token_ids]
    _, tokenizer = reference()
    assert len(tokens) == 30 - len(tokenizer(PROMPT).input_ids)
    assert all(token % 2 == 0 for token in tokens)
    assert pieces[-1].finish_reason == "stop"
    assert sum(piece.num_accepted for piece in pieces) > 0


async def test_what_is_refused_and_what_fails(served: ClusterServer) -> None:
    async with Client(served.url) as client:
        with pytest.raises(RequestError, match="only ban_every") as caught:
            await client.generate(PROMPT, logits_processor=["nope"], max_new_tokens=2)
        assert caught.value.field == "logits_processors"
        with pytest.raises(RequestError, match="3 asked for, but there are 2 beams"):
            await client.generate(PROMPT, num_beams=2, num_return_sequences=3)
        with pytest.raises(GenerationError, match="nothing to divide by"):
            failing = {"name": "failing_processor", "args": {"num_tokens": 1}}
            await client.generate(PROMPT, logits_processor=[failing], max_new_tokens=4)
        assert (await client.generate(PROMPT, max_new_tokens=4)).texts
