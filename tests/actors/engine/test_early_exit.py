"""A model that drafts with its own first layers: its tokens stay the same, in fewer steps where the layers agree."""

import msgspec
import pytest

from actors.engine.errors import RequestError
from actors.engine.params import GenerationParams
from tests.actors.engine.harness import generate, ragged_prompts, requests, run, tiny_engine, tiny_loaded, tokens
from tests.actors.engine.tiny_models import ARCHITECTURES

NUM_NEW = 20
NAMES = [name for name in ARCHITECTURES if name != "mamba"]


@pytest.mark.parametrize("architecture", NAMES)
def test_greedy_tokens_are_generates(architecture: str) -> None:
    prompts = ragged_prompts(3, seed=4)
    params = GenerationParams(max_new_tokens=NUM_NEW, assistant_early_exit=1)
    engine = tiny_engine(architecture)
    got = tokens(run(engine, requests(prompts, params)))
    assert got == {f"r{i}": generate(architecture, p, NUM_NEW) for i, p in enumerate(prompts)}
    assert engine.stats().num_draft_tokens > 0


def test_sampled_tokens_are_those_without_it_alone_and_in_a_crowd() -> None:
    prompts = ragged_prompts(8, seed=5)
    plain = [
        GenerationParams(max_new_tokens=NUM_NEW, do_sample=True, seed=n, temperature=0.7, repetition_penalty=1.1)
        for n in range(8)
    ]
    early = [msgspec.structs.replace(p, assistant_early_exit=1 + n % 2) for n, p in enumerate(plain)]
    mixed = [(early if n % 3 else plain)[n] for n in range(8)]
    want = tokens(run(tiny_engine(), requests(prompts, plain)))
    for settings in (early, mixed):
        for engine in (tiny_engine(), tiny_engine(num_blocks=40), tiny_engine(max_num_batched_tokens=9)):
            assert tokens(run(engine, requests(prompts, settings))) == want


def test_layers_that_change_nothing_are_not_missed() -> None:
    """With its last layers idle the model's first ones know all that it knows, so every draft is right."""
    import torch

    engine = tiny_engine(seed=9)
    layers = tiny_loaded("llama", 9).model.model.layers
    with torch.no_grad():
        for layer in layers[1:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    params = GenerationParams(max_new_tokens=41, assistant_early_exit=1, do_sample=True, seed=3)
    (deltas,) = run(engine, requests([(5, 6, 7)], params)).values()
    stats = engine.stats()
    assert stats.num_accepted_tokens == stats.num_draft_tokens > 30
    assert [delta.num_drafted for delta in deltas][:6] == [0, 4, 5, 6, 7, 8]
    assert len(layers) == 3, "the layers are back"


def test_a_pinned_length_stays() -> None:
    params = GenerationParams(max_new_tokens=NUM_NEW, assistant_early_exit=2, num_assistant_tokens=3)
    (deltas,) = run(tiny_engine(), requests([(5, 6, 7)], params)).values()
    assert {delta.num_drafted for delta in deltas[1:-3]} == {3}
    off = msgspec.structs.replace(params, num_assistant_tokens=0)
    (deltas,) = run(tiny_engine(), requests([(5, 6, 7)], off)).values()
    assert {delta.num_drafted for delta in deltas} == {0}


def test_more_layers_than_there_are_is_refused() -> None:
    engine = tiny_engine()
    with pytest.raises(RequestError) as refused:
        engine.add(requests([(5, 6)], GenerationParams(assistant_early_exit=3))[0])
    assert (refused.value.field, refused.value.limit) == ("assistant_early_exit", "2")
    assert engine.num_unfinished() == 0
