"""The pieces that make the embedded pair, on texts and models of toy size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from cluster.demo.corpus import clean_paragraph, held_out_passages, read_book, read_books, split_chapters
from cluster.demo.distill import DistillConfig
from cluster.demo.losses import coupled_agreement, draft_loss, total_variation
from cluster.demo.nf4 import fake_nf4, quantized_parameters, rounded_weights
from cluster.demo.optimizer import orthogonalize
from cluster.demo.pretrain import ModelShape, Phase, batches, train_target, window_starts
from cluster.demo.train import Recipe, make_pair

TOY = ModelShape(hidden=64, layers=2, intermediate=64, heads=2, kv_heads=1, vocab=300, context=64)
TOY_DRAFT = ModelShape(hidden=64, layers=1, intermediate=64, heads=2, kv_heads=1, vocab=300, context=64)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two short books that repeat themselves."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("one", "two"):
        lines = [f"It was the {name} and best of times, {i} it was the worst of them. So it was." for i in range(120)]
        text = "\n\n".join(["CHAPTER I", *lines[:60], "CHAPTER II", *lines[60:]])
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_clean_paragraph_drops_what_transcribers_added() -> None:
    assert clean_paragraph("It was _his_\nown[3]  hand.") == "It was his own hand."
    assert clean_paragraph("[Illustration: colophon]") == ""
    assert clean_paragraph("*       *       *") == ""


def test_split_chapters_drops_tables_of_contents() -> None:
    paragraphs = ["CHAPTER I", "CHAPTER II", "CHAPTER I", "Once.", "CHAPTER II", "Twice."]
    assert split_chapters(paragraphs) == ("CHAPTER I\n\nOnce.", "CHAPTER II\n\nTwice.")


def test_held_out_prose_is_not_trained_on(corpus: Path) -> None:
    book = read_book(corpus / "one.txt", held_out_share=0.1)
    assert book.held_out and all(book.held_out not in chapter for chapter in book.chapters)
    assert book.held_out.endswith("119 it was the worst of them. So it was.")
    assert all(passage in book.held_out for passage in held_out_passages([book]))


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_books(tmp_path)


def test_windows_visit_the_text_once_a_pass() -> None:
    starts = torch.cat([window_starts(1000, 10, 7, step, seed=1) for step in range(14)])
    assert len(starts.unique()) == 98
    assert int(starts.max()) + 11 <= 1000
    assert torch.equal(starts[7:14], window_starts(1000, 10, 7, 1, seed=1))
    assert not torch.equal(starts[:7], window_starts(1000, 10, 7, 14, seed=1))


def test_batches_resume_where_they_stopped() -> None:
    stream, phase = torch.arange(500), Phase(steps=6, window=8, sequences=4)
    whole = list(batches(stream, phase, seed=0))
    rest = list(batches(stream, phase, seed=0, first=4))
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest, strict=True))
    assert whole[0].shape == (4, 9)


def test_fake_nf4_is_what_bitsandbytes_stores() -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    assert torch.allclose(fake_nf4(weight), dequantize_4bit(packed, state), atol=1e-6)
    assert torch.allclose(fake_nf4(fake_nf4(weight)), fake_nf4(weight), atol=1e-6)


def test_rounded_weights_come_back() -> None:
    model = LlamaForCausalLM(TOY.config())
    before = [parameter.detach().clone() for parameter in quantized_parameters(model)]
    assert len(before) == 2 * 7
    with rounded_weights(model):
        assert not torch.equal(quantized_parameters(model)[0], before[0])
    assert all(torch.equal(a, b) for a, b in zip(before, quantized_parameters(model), strict=True))


@pytest.mark.parametrize("shape", [(2, 24, 48), (1, 48, 24)])
def test_orthogonalize(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalize(matrices))
    assert float(singular.min()) > 0.3 and float(singular.max()) < 1.3


def test_coupled_agreement_is_what_shared_noise_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    target, draft = torch.randn(2, 12, generator=generator), torch.randn(2, 12, generator=generator)
    uniform = torch.rand(40_000, 1, 12, generator=generator, dtype=torch.float64)
    noise = -(-uniform.log()).log()
    met = ((target + noise).argmax(-1) == (draft + noise).argmax(-1)).float().mean(0)
    estimate = coupled_agreement(target.expand(2000, 2, 12), draft.expand(2000, 2, 12), candidates=3).mean(0)
    assert torch.allclose(estimate, met, atol=0.01)


def test_losses_are_least_when_the_models_agree() -> None:
    logits = torch.randn(2, 32, 50, generator=torch.Generator().manual_seed(0))
    assert float(total_variation(logits, logits + 1)) == pytest.approx(0, abs=1e-5)
    assert float(draft_loss(logits, logits + 1, sharpness=1.0)) == pytest.approx(0, abs=1e-4)
    for sharpness in (0.0, 0.5, 1.0):
        assert float(draft_loss(logits, logits, sharpness)) < float(draft_loss(logits, -logits, sharpness))


def test_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    stream = torch.randint(300, (600,), generator=torch.Generator().manual_seed(0))
    phases = (Phase(4, 16, 2), Phase(3, 24, 2, 1.0, 0.0, is_quantized=True))
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = train_target(stream, stream[:50], TOY, phases, tmp_path / "whole", save_every=2)
    train_target(stream, stream[:50], TOY, phases[:1], tmp_path / "parts", save_every=2)
    parts = train_target(stream, stream[:50], TOY, phases, tmp_path / "parts", save_every=2)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_recipe_makes_a_pair(corpus: Path, tmp_path: Path) -> None:
    distillation = DistillConfig(steps=8, window=32, sequences=4)
    phases = (Phase(30, 32, 8), Phase(10, 32, 8, 1.0, 0.0, is_quantized=True))
    recipe = Recipe(TOY, TOY_DRAFT, phases, distillation=distillation, num_written=4)
    books = read_books(corpus, held_out_share=0.15)
    report = make_pair(books, recipe, tmp_path / "work", tmp_path / "out")
    assert report.target_loss_per_token < 5.0
    assert report.greedy.num_checked > 0
    for role in ("target", "draft"):
        card = (tmp_path / "out" / role / "README.md").read_text()
        assert "Licence" in card and f"{report.greedy.per_token:.3f}" in card
