"""Make the embedded pair from a folder of novels.

``python -m cluster.demo.train --corpus ../shared/corpus --out cluster/demo`` learns the tokenizer, trains the target,
lets it write, distills the draft, measures both in NF4, and writes folders, held-out passages and model cards. It
takes about an hour on two CPU cores. What is done is kept in the work folder, and a second run goes on from there.

On a machine that others use, ``OMP_WAIT_POLICY=PASSIVE`` keeps the two threads from spinning for each other, and
``MALLOC_MMAP_MAX_=0`` saves the page faults of large logits, much of the distillation's time.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.demo.corpus import Book, held_out_passages, read_books, split_passages
from cluster.demo.distill import DRAFT_SHAPE, DistillConfig, distill, new_draft, sample_texts
from cluster.demo.evaluate import SEPARATOR, Report, evaluate
from cluster.demo.export import export_model, write_card
from cluster.demo.nf4 import rounded_weights
from cluster.demo.pretrain import ModelShape, Phase, encode_books, train_target
from cluster.demo.tokenizer import train_tokenizer

logger = logging.getLogger(__name__)


def target_phases() -> tuple[Phase, ...]:
    """Return the target's schedule: a constant rate, then a falling one with NF4 rounding and longer windows.

    The fall has a bend after 50 steps because the shipped target was trained on a busy machine and had to be done in
    time; the numbers are those that made it. On a free machine ten times the steps would serve it well.
    """
    return (
        Phase(500, window=256, sequences=24),
        Phase(50, window=512, sequences=12, lr_from=1.0, lr_to=0.845, is_quantized=True),
        Phase(110, window=512, sequences=12, lr_from=0.845, lr_to=0.1, is_quantized=True),
        Phase(12, window=1023, sequences=6, lr_from=0.1, lr_to=0.0, is_quantized=True),
    )


@dataclass(frozen=True)
class Recipe:
    """Everything that the pair depends on besides the text."""

    target: ModelShape = field(default_factory=ModelShape)
    draft: ModelShape = DRAFT_SHAPE
    phases: tuple[Phase, ...] = field(default_factory=target_phases)
    lr: float = 4e-3
    distillation: DistillConfig = field(default_factory=DistillConfig)
    num_written: int = 576
    seed: int = 0

    def __post_init__(self) -> None:
        if self.target.vocab != self.draft.vocab:
            raise ValueError(f"target and draft differ in vocabulary: {self.target.vocab}, {self.draft.vocab}")


def make_tokenizer(books: Sequence[Book], recipe: Recipe, work: Path) -> PreTrainedTokenizerFast:
    """Learn the tokenizer, or read it from the work folder."""
    folder = work / "tokenizer"
    if not folder.exists():
        chapters = [chapter for book in books for chapter in book.chapters]
        train_tokenizer(chapters, recipe.target.vocab, recipe.target.context).save_pretrained(folder)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def make_draft(target: LlamaForCausalLM, stream: Tensor, recipe: Recipe, work: Path) -> LlamaForCausalLM:
    """Let the target write, with its weights rounded as they will run, and distill a draft.

    A draft that the work folder has is trained further, by the same schedule from its start.
    """
    target.eval().requires_grad_(False)
    written = work / "written.pt"
    with rounded_weights(target):
        if not written.exists():
            torch.save(sample_texts(target, stream, recipe.num_written, recipe.distillation.window), written)
        draft = new_draft(target, recipe.draft, recipe.seed)
        path = work / "draft.pt"
        if path.exists():
            draft.load_state_dict(torch.load(path, weights_only=True))

        def save(done: int) -> None:
            if done % 50 == 0 or done == recipe.distillation.steps:
                torch.save(draft.state_dict(), path)

        distill(target, draft, stream, torch.load(written, weights_only=True), recipe.distillation, save)
    return draft


def passages_of(books: Sequence[Book]) -> list[str]:
    """Return all held-out prose as passages of a page each; of books too short for a page, what there is."""
    return [passage for book in books for passage in split_passages(book.held_out) or [book.held_out]]


def write_cards(out: Path, recipe: Recipe, num_tokens: int, report: Report) -> None:
    """Write both model cards: what was done to how much text, and what came of it."""
    steps = [f"{phase.steps} steps of {phase.sequences} windows of {phase.window}" for phase in recipe.phases]
    on = recipe.distillation
    notes = {
        "target": f"Muon and AdamW: {', then '.join(steps)}; "
        "weights rounded to NF4 in forward passes from the second on.",
        "draft": f"Distilled from the target for {on.steps} steps of {on.sequences} windows of {on.window}, "
        f"{on.sampled_share:.0%} of them written by the target; divergence first, then agreement.",
    }
    for role, note in notes.items():
        write_card(out / role, role, note, num_tokens, report)


def make_pair(books: list[Book], recipe: Recipe, work: Path, out: Path) -> Report:
    """Train, write and measure the pair.

    Args:
        books: The text.
        recipe: How.
        work: Folder for checkpoints; what it already has is used.
        out: Folder in which ``target``, ``draft`` and ``heldout.txt`` are written.
    """
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(books, recipe, work)
    stream = encode_books(books, tokenizer)
    held_out_ids = tokenizer([book.held_out for book in books], verbose=False)["input_ids"]
    held_out = torch.tensor([token for ids in held_out_ids for token in (0, *ids)])
    target = train_target(stream, held_out, recipe.target, recipe.phases, work, recipe.lr, recipe.seed)
    draft = make_draft(target, stream, recipe, work)
    export_model(target, tokenizer, out / "target")
    export_model(draft, tokenizer, out / "draft")
    passages = held_out_passages(books)
    (out / "heldout.txt").write_text(SEPARATOR.join(passages) + "\n", encoding="utf-8")
    report = evaluate(out / "target", out / "draft", passages_of(books))
    write_cards(out, recipe, len(stream), report)
    return report


def main() -> None:
    """Make the pair from the command line; the report goes to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of novels, one .txt each")
    parser.add_argument("--out", type=Path, required=True, help="where target/ and draft/ are written")
    parser.add_argument("--work", type=Path, default=Path("runs/demo"), help="checkpoints (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(options.threads)
    report = make_pair(read_books(options.corpus), Recipe(seed=options.seed), options.work, options.out)
    sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")


if __name__ == "__main__":
    main()
