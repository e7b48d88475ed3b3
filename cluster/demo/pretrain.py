"""Training of the target: next-token prediction on the novels, in phases that may be resumed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from cluster.demo.corpus import Book
from cluster.demo.nf4 import rounded_weights
from cluster.demo.optimizer import SplitOptimizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelShape:
    """Size of a Llama with tied embeddings."""

    hidden: int = 256
    layers: int = 6
    intermediate: int = 704
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 2048
    context: int = 1024

    def __post_init__(self) -> None:
        if self.hidden % self.heads or self.heads % self.kv_heads:
            raise ValueError(f"{self.hidden} hidden units, {self.heads} heads, {self.kv_heads} KV heads do not divide")

    def config(self) -> LlamaConfig:
        """Return the configuration as transformers has it; token 0 begins and ends texts."""
        return LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            intermediate_size=self.intermediate,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.hidden // self.heads,
            max_position_embeddings=self.context,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )


@dataclass(frozen=True)
class Phase:
    """A stretch of training; the learning rate goes in a line between two shares of its peak."""

    steps: int
    window: int
    sequences: int
    lr_from: float = 1.0
    lr_to: float = 1.0
    is_quantized: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.window, self.sequences) < 1:
            raise ValueError(f"steps, window and sequences must be positive: {self}")

    def lr_share(self, step: int) -> float:
        """Share of the peak learning rate at a step of this phase, counted from 0."""
        return self.lr_from + (self.lr_to - self.lr_from) * (step + 1) / self.steps


def encode_books(books: Sequence[Book], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Return all training text as one stream of ids, shape (tokens,), with token 0 before each chapter."""
    chapters = [chapter for book in books for chapter in book.chapters]
    encoded = tokenizer(chapters, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor([token for ids in encoded for token in (0, *ids)] + [0])


def window_starts(num_tokens: int, window: int, sequences: int, step: int, seed: int) -> Tensor:
    """Return where the windows of a step begin, shape (sequences,).

    Each pass over the text cuts it at other places and visits every window once, in random order. The result depends
    on the arguments alone, so that training can stop and resume at any step.
    """
    per_pass = (num_tokens - 1 - window) // window
    if per_pass < sequences:
        raise ValueError(f"{num_tokens} tokens hold {per_pass} windows of {window}, fewer than {sequences}")
    number, index = divmod(step, per_pass // sequences)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    offset = int(torch.randint(window, (1,), generator=generator))
    order = torch.randperm(per_pass, generator=generator)
    return offset + window * order[index * sequences : (index + 1) * sequences]


def batches(stream: Tensor, phase: Phase, seed: int, first: int = 0) -> Iterator[Tensor]:
    """Yield batches of shape (sequences, window + 1) for the steps of a phase, from step ``first`` on."""
    span = torch.arange(phase.window + 1)
    for step in range(first, phase.steps):
        starts = window_starts(len(stream), phase.window, phase.sequences, step, seed)
        yield stream[(starts[:, None] + span).to(stream.device)]


def next_token_loss(model: PreTrainedModel, batch: Tensor) -> Tensor:
    """Return the mean cross entropy in nats, for a batch of shape (sequences, window + 1)."""
    logits = model(input_ids=batch[:, :-1], use_cache=False).logits  # (sequences, window, vocab)
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def stream_loss(model: PreTrainedModel, stream: Tensor, window: int = 512) -> float:
    """Return the mean loss in nats a token over a stream of shape (tokens,), in windows without overlap."""
    pieces = [stream[i : i + window + 1] for i in range(0, len(stream) - 1, window)]
    total = sum(float(next_token_loss(model, piece[None])) * (len(piece) - 1) for piece in pieces)
    return total / (len(stream) - 1)


def train_target(
    stream: Tensor,
    held_out: Tensor,
    shape: ModelShape,
    phases: Sequence[Phase],
    folder: Path,
    lr: float = 4e-3,
    seed: int = 0,
    save_every: int = 50,
) -> LlamaForCausalLM:
    """Train a target, or go on from the last checkpoint in the folder.

    Args:
        stream: Training ids, shape (tokens,), on the device to train on.
        held_out: Ids to report the loss on, shape (tokens,), there too.
        shape: Size of the model.
        phases: What to do, in order.
        folder: Where ``checkpoint.pt`` is kept.
        lr: Peak learning rate.
        seed: For the initial weights and the order of the text.
        save_every: Steps between checkpoints.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(shape.config())
    model.to(stream.device)  # type: ignore[arg-type]
    optimizer = SplitOptimizer(model, lr)
    path = folder / "checkpoint.pt"
    at_phase, at_step = 0, 0
    if path.exists():
        saved = torch.load(path, map_location=stream.device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        at_phase, at_step = saved["phase"], saved["step"]
        if at_step >= phases[at_phase].steps:
            at_phase, at_step = at_phase + 1, 0
    for number in range(at_phase, len(phases)):
        phase = phases[number]
        first = at_step if number == at_phase else 0
        progress = tqdm(batches(stream, phase, seed + number, first), f"phase {number}", phase.steps, initial=first)
        for step, batch in enumerate(progress, first):
            with rounded_weights(model, phase.is_quantized):
                loss = next_token_loss(model, batch)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            warm_up = min(1.0, (step + 1) / 50) if number == 0 else 1.0
            optimizer.step(warm_up * phase.lr_share(step))
            done = step + 1
            if done % 10 == 0:
                progress.set_postfix_str(f"loss {float(loss.detach()):.3f}", refresh=False)
            if done % save_every == 0 or done == phase.steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**state, "phase": number, "step": done}, path.with_suffix(".tmp"))
                path.with_suffix(".tmp").replace(path)
            if done % (4 * save_every) == 0 or done == phase.steps:
                with rounded_weights(model, phase.is_quantized):
                    score = stream_loss(model, held_out[:20_000])
                progress.write(f"phase {number} step {done}: held-out loss {score:.4f}")
    return model
