"""Make the embedded pair from a folder of novels.

``python -m cluster.demo.train --corpus ../shared/corpus --out cluster/demo`` learns the tokenizer, trains the target,
lets it write, distills the draft, measures both in NF4, and writes folders, held-out passages and model cards. It
takes about an hour on two CPU cores. What is done is kept in the work folder, and a second run goes on from there.

``--drafts 128x2 128x3 --seconds 45`` leaves the shipped target as it is and distills drafts of these shapes, each in
that time, as ``OUT/draft-NAME/model.safetensors``; ``cluster.demo.adopt`` ships one. The shipped draft was made so on
a GPU.

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

from cluster.demo import TARGET_PATH
from cluster.demo.candidates import Candidate, load_target, train_candidates
from cluster.demo.corpus import Book, held_out_passages, read_books, split_passages
from cluster.demo.distill import DistillConfig, distill, sample_texts
from cluster.demo.drafts import DRAFT_SHAPE, DRAFT_SHAPES, new_draft
from cluster.demo.evaluate import SEPARATOR, Report, evaluate, prompts_of
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
            draft.load_state_dict(torch.load(path, map_location=stream.device, weights_only=True))

        def save(done: int) -> None:
            if done % 50 == 0 or done == recipe.distillation.steps:
                torch.save(draft.state_dict(), path)

        texts = torch.load(written, map_location=stream.device, weights_only=True)
        distill(target, draft, stream, texts, recipe.distillation, save)
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


def make_pair(books: list[Book], recipe: Recipe, work: Path, out: Path, device: str = "cpu") -> Report:
    """Train, write and measure the pair.

    Args:
        books: The text.
        recipe: How.
        work: Folder for checkpoints; what it already has is used.
        out: Folder in which ``target``, ``draft`` and ``heldout.txt`` are written.
        device: Where to train. The pair is measured on the CPU.
    """
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(books, recipe, work)
    stream = encode_books(books, tokenizer).to(device)
    held_out_ids = tokenizer([book.held_out for book in books], verbose=False)["input_ids"]
    held_out = torch.tensor([token for ids in held_out_ids for token in (0, *ids)], device=device)
    target = train_target(stream, held_out, recipe.target, recipe.phases, work, recipe.lr, recipe.seed)
    draft = make_draft(target, stream, recipe, work)
    export_model(target, tokenizer, out / "target")
    export_model(draft, tokenizer, out / "draft")
    passages = held_out_passages(books)
    (out / "heldout.txt").write_text(SEPARATOR.join(passages) + "\n", encoding="utf-8")
    report = evaluate(out / "target", out / "draft", passages_of(books))
    write_cards(out, recipe, len(stream), report)
    return report


def make_drafts(books: list[Book], options: argparse.Namespace) -> list[Candidate]:
    """Distill drafts of the shapes that the command line names from the target that it names."""
    device = torch.device(options.device)
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.set_float32_matmul_precision("high")  # TF32; acceptance is measured without
    target = load_target(options.target, device)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(options.target)
    stream = encode_books(books, tokenizer).to(device)
    prompts = prompts_of(passages_of(books), tokenizer).to(device)
    # A GPU takes as long for a small batch as for a large one.
    sequences, num_written, together = (64, 8192, 1024) if is_cuda else (12, 576, 144)
    config = DistillConfig(
        steps=options.steps,
        seconds=options.seconds,
        sequences=options.sequences or sequences,
        sampled_share=options.sampled_share,
        lr=options.lr,
        seed=options.seed,
    )
    num_written = options.num_written or num_written
    return train_candidates(target, stream, prompts, options.drafts, config, num_written, options.out, batch=together)


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    default = DistillConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of novels, one .txt each")
    parser.add_argument("--out", type=Path, required=True, help="where target/ and draft/ are written")
    parser.add_argument("--work", type=Path, default=Path("runs/demo"), help="checkpoints (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s here)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    drafts = parser.add_argument_group("only drafts")
    drafts.add_argument("--drafts", nargs="+", choices=list(DRAFT_SHAPES), help="shapes to distill, one after another")
    drafts.add_argument("--target", type=Path, default=TARGET_PATH, help="folder of the target (the shipped one)")
    extent = drafts.add_mutually_exclusive_group()
    extent.add_argument("--seconds", type=float, help="time for each draft, without writing and measuring")
    extent.add_argument("--steps", type=int, default=default.steps, help="steps for each (default: %(default)s)")
    drafts.add_argument("--sequences", type=int, help="sequences in a batch (CPU: 12, CUDA: 64)")
    drafts.add_argument("--num-written", type=int, help="texts that the target writes first (CPU: 576, CUDA: 8192)")
    drafts.add_argument("--sampled-share", type=float, default=default.sampled_share, help="of them in a batch")
    drafts.add_argument("--lr", type=float, default=default.lr)
    return parser


def main() -> None:
    """Make the pair, or drafts, from the command line; the report goes to standard output."""
    options = arguments().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    books = read_books(options.corpus)
    if options.drafts:
        candidates = make_drafts(books, options)
        sys.stdout.write(json.dumps([asdict(candidate) for candidate in candidates]) + "\n")
        return
    report = make_pair(books, Recipe(seed=options.seed), options.work, options.out, options.device)
    sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")


if __name__ == "__main__":
    main()
