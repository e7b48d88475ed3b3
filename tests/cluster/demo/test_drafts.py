"""Drafts of several shapes: how large they are, how they begin, how they are trained in time, kept and shipped."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaForCausalLM

from cluster.demo import TARGET_PATH
from cluster.demo.adopt import adopt
from cluster.demo.candidates import Candidate, as_shipped, load_candidate, load_target, save_candidate, train_candidates
from cluster.demo.corpus import Book
from cluster.demo.distill import DistillConfig, batches_of_indices
from cluster.demo.drafts import DRAFT_SHAPES, new_draft, principal_directions
from cluster.demo.evaluate import Rates, count_parameters
from cluster.demo.pretrain import ModelShape
from cluster.demo.train import Recipe, arguments

CPU = torch.device("cpu")
TOY = ModelShape(hidden=128, layers=2, intermediate=64, heads=2, kv_heads=1, vocab=300, context=64)
SMALL = ModelShape(hidden=64, layers=1, intermediate=64, heads=1, kv_heads=1)  # reads the pair's tokenizer
NARROW = ModelShape(hidden=64, layers=1, intermediate=64, heads=1, kv_heads=1, vocab=300, context=64)


@pytest.fixture(scope="module")
def toy() -> LlamaForCausalLM:
    torch.manual_seed(0)
    built = LlamaForCausalLM(TOY.config())
    built.eval().requires_grad_(False)
    built.model.embed_tokens.weight.mul_(5)
    for layer in built.model.layers:
        layer.mlp.down_proj.weight.mul_(100)  # what follows a token is no longer the token itself
    return built


@pytest.mark.parametrize("name", DRAFT_SHAPES)
def test_a_draft_is_a_tenth_of_the_target(name: str) -> None:
    shape = DRAFT_SHAPES[name]
    share = count_parameters(LlamaForCausalLM(shape.config())) / count_parameters(load_target(TARGET_PATH, CPU))
    assert 0.09 < share < 0.12
    assert shape.hidden // shape.heads == 64 and shape.intermediate % 64 == 0


def test_a_narrow_draft_begins_with_principal_directions(toy: LlamaForCausalLM) -> None:
    embeddings = toy.model.embed_tokens.weight
    directions = principal_directions(embeddings, 64)
    assert torch.allclose(directions.T @ directions, torch.eye(64), atol=1e-5)
    best = torch.linalg.svdvals(embeddings)[64:].square().sum()  # no 64 directions leave less
    given = new_draft(toy, NARROW).model.embed_tokens.weight.detach()
    assert float((embeddings - given @ directions.T).square().sum()) == pytest.approx(float(best), rel=1e-4)
    assert torch.equal(new_draft(toy, TOY).model.embed_tokens.weight, embeddings)


def test_steps_are_evenly_paced() -> None:
    assert list(DistillConfig(steps=4).pace()) == [0.125, 0.375, 0.625, 0.875]


def test_time_is_kept_whatever_the_steps_take() -> None:
    # The clock is read at 100 when the first step is over; then steps of 1 s, and one of 6.
    clock = iter([100.0, 100.0, 101.0, 102.0, 108.0, 110.0]).__next__
    assert list(DistillConfig(seconds=10).pace(clock)) == pytest.approx([0.0, 0.0, 0.1, 0.2, 0.8])


def test_the_rate_rises_and_falls_to_nothing() -> None:
    config = DistillConfig(warm_share=0.1)
    assert [config.lr_share(done) for done in (0.0, 0.05, 0.1, 0.55, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_batches_take_both_kinds_of_text() -> None:
    config = DistillConfig(window=8, sequences=5, sampled_share=0.4)
    drawn = list(itertools.islice(batches_of_indices(400, 3, config, CPU), 130))
    assert all(starts.shape == (3,) and rows.shape == (2,) for starts, rows in drawn)
    assert {int(row) for _, rows in drawn for row in rows} == {0, 1, 2}
    assert max(int(starts.max()) for starts, _ in drawn) + 8 <= 400
    assert not torch.equal(torch.stack([s for s, _ in drawn[:64]]), torch.stack([s for s, _ in drawn[64:128]]))


def test_a_candidate_agrees_more_than_where_it_began(toy: LlamaForCausalLM, tmp_path: Path) -> None:
    torch.manual_seed(1)
    stream, prompts = torch.randint(300, (2000,)), torch.randint(300, (8, 8))
    config, shapes = DistillConfig(steps=100, window=24, sequences=8, lr=1e-2), {"narrow": NARROW}

    def agreement(config: DistillConfig, out: Path) -> float:
        (one,) = train_candidates(toy, stream, prompts, ["narrow"], config, 16, out, num_tokens=24, shapes=shapes)
        assert one.rates["1.0"].num_checked > 50
        return one.rates["1.0"].per_token

    assert agreement(config, tmp_path) > agreement(dataclasses.replace(config, steps=1), tmp_path / "one") + 0.1
    draft, candidate = load_candidate(tmp_path / "draft-narrow" / "model.safetensors")
    assert candidate.distillation == config and candidate.shape == NARROW
    assert candidate.share == pytest.approx(count_parameters(draft) / count_parameters(toy))


def test_what_is_measured_is_what_is_shipped(toy: LlamaForCausalLM) -> None:
    weights, shipped = dict(toy.named_parameters()), dict(as_shipped(toy).named_parameters())
    assert all(torch.equal(shipped[name], weight.bfloat16().float()) for name, weight in weights.items())


def test_a_file_without_a_report_is_no_candidate(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="has no 'report'"):
        load_candidate(tmp_path / "model.safetensors")


def test_a_candidate_is_shipped(tmp_path: Path) -> None:
    """The exported draft is the candidate's, with the target's tokenizer, and both cards tell of it."""
    torch.manual_seed(0)
    target = LlamaForCausalLM(SMALL.config())
    draft = new_draft(target, SMALL)
    steps = DistillConfig(steps=1234, seconds=5.0, sequences=64)
    rates = {"0.0": Rates(0.5, 0.25, 2.0, 100)}
    candidate = Candidate("small", SMALL, steps, count_parameters(draft), 1.0, 5.0, "cuda", rates)
    save_candidate(draft, candidate, tmp_path / "model.safetensors")
    assert load_candidate(tmp_path / "model.safetensors")[1] == candidate
    out = tmp_path / "pair"
    target.save_pretrained(out / "target")
    AutoTokenizer.from_pretrained(TARGET_PATH).save_pretrained(out / "target")
    held_out = "It was a dark night, and the captain had never been so tired in all his life. " * 8
    report = adopt(tmp_path / "model.safetensors", [Book("one", ("Once upon a time.",), held_out)], out, Recipe())
    assert report.draft_parameters == candidate.parameters
    shipped = LlamaForCausalLM.from_pretrained(out / "draft", dtype=torch.float32)
    for name, weight in as_shipped(draft).named_parameters():
        assert torch.equal(shipped.get_parameter(name), weight), name
    card = (out / "draft" / "README.md").read_text()
    assert "1234 steps of 64 windows of 256" in card and f"{candidate.parameters:,} parameters" in card
    assert f"{report.greedy.per_token:.3f}" in (out / "target" / "README.md").read_text()


def test_the_command_line_takes_shapes() -> None:
    where = ["--corpus", "c", "--out", "o"]
    options = arguments().parse_args([*where, "--drafts", "128x2", "192x1", "--seconds", "30"])
    assert (options.drafts, options.seconds, options.target) == (["128x2", "192x1"], 30.0, TARGET_PATH)
    with pytest.raises(SystemExit):
        arguments().parse_args([*where, "--drafts", "7x7"])
