"""Beams in the engine are those of transformers: same ids, same scores, same indices, whoever else is in the batch."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from actors.engine.params import GenerationParams
from actors.engine.request import Beam, Delta, Request
from tests.actors.engine.harness import ragged_prompts, requests, run, tiny_engine, tiny_loaded
from tests.actors.engine.tiny_models import ARCHITECTURES

EOS = 2
NUM_NEW = 14


def search(engine: Any, todo: Sequence[Request]) -> dict[str, tuple[Beam, ...]]:
    """What the searches among ``todo`` find, by request."""
    found: dict[str, tuple[Beam, ...]] = {}
    for request_id, deltas in run(engine, todo).items():
        last: Delta = deltas[-1]
        assert last.error == ""
        if last.beams is not None:
            found[request_id] = last.beams
    return found


def expected(architecture: str, prompt: Sequence[int], params: GenerationParams, **fields: Any) -> list[Beam]:
    """The same by ``model.generate``, one prompt alone."""
    model: Any = tiny_loaded(architecture).model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    ids = torch.tensor([list(prompt)])
    try:
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=params.max_new_tokens,
            num_beams=params.num_beams,
            num_return_sequences=params.num_beams,
            length_penalty=params.length_penalty,
            early_stopping=params.early_stopping,
            eos_token_id=list(params.eos_token_id) or None,
            return_dict_in_generate=True,
            output_scores=True,
            **fields,
        )
    finally:
        model.set_attn_implementation(before)
    found = []
    for row, score, indices in zip(out.sequences, out.sequences_scores, out.beam_indices, strict=True):
        length = int((indices >= 0).sum())
        ids_of = tuple(row[len(prompt) : len(prompt) + length].tolist())
        found.append(Beam(ids_of, float(score), tuple(indices[:length].tolist()), None))  # type: ignore[arg-type]
    return found


def assert_same(got: Sequence[Beam], want: Sequence[Beam]) -> None:
    assert [beam.token_ids for beam in got] == [beam.token_ids for beam in want]
    assert [beam.beam_indices for beam in got] == [beam.beam_indices for beam in want]
    assert [beam.score for beam in got] == pytest.approx([beam.score for beam in want], abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ragged_searches_are_generates(architecture: str) -> None:
    prompts = ragged_prompts(4, seed=3)
    params = GenerationParams(max_new_tokens=NUM_NEW, num_beams=3, eos_token_id=(EOS,))
    found = search(tiny_engine(architecture), requests(prompts, params))
    for index, prompt in enumerate(prompts):
        assert_same(found[f"r{index}"], expected(architecture, prompt, params))
