"""Counting rounds, and the shared noise."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from cluster.demo.acceptance import Acceptance, agreement, choose, count_rounds, gumbel, measure_acceptance, write
from cluster.demo.pretrain import ModelShape

TOY = ModelShape(hidden=64, layers=1, intermediate=64, heads=2, kv_heads=1, vocab=300, context=64)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    built = LlamaForCausalLM(TOY.config())
    built.eval()
    return built


def test_count_rounds() -> None:
    # k = 2: round at 0 accepts both and emits 3; at 3 it accepts one of two, emits 2; at 5 none, emits 1.
    agrees = [True, True, False, True, False, False, True, True]
    counts = count_rounds(agrees, k=2)
    assert counts == Acceptance(num_drafted=6, num_checked=5, num_accepted=3, num_rounds=3)
    assert counts.per_token == pytest.approx(0.6)
    assert counts.per_drafted == pytest.approx(0.5)
    assert counts.tokens_per_round == pytest.approx(2.0)


def test_count_rounds_wants_a_draft() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        count_rounds([True], k=0)


def test_noise_is_a_function_of_seed_and_position() -> None:
    assert torch.equal(gumbel(1, 2, 3, 5), gumbel(1, 2, 3, 5))
    assert not torch.equal(gumbel(1, 2, 3, 5), gumbel(1, 3, 3, 5))
    assert not torch.equal(gumbel(1, 2, 3, 5), gumbel(2, 2, 3, 5))


def test_choices_follow_the_distribution() -> None:
    logits = torch.tensor([0.1, 0.2, 0.7]).log().expand(20_000, 3)
    shares = choose(logits, 1.0, seed=0, position=0).bincount(minlength=3) / 20_000
    assert torch.allclose(shares, torch.tensor([0.1, 0.2, 0.7]), atol=0.02)
    assert torch.equal(choose(logits[:2], 0.0, seed=0, position=0), torch.tensor([2, 2]))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_agrees_with_itself(model: LlamaForCausalLM, temperature: float) -> None:
    prompts = torch.randint(300, (3, 5), generator=torch.Generator().manual_seed(0))
    ids = write(model, prompts, 20, temperature, seed=7)
    assert ids.shape == (3, 25)
    assert bool(agreement(model, ids, 5, temperature, seed=7).all())
    assert measure_acceptance(model, model, prompts, 4, 20, temperature, seed=7).per_token == 1.0
