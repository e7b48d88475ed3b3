"""Training of the draft: to choose what the target chooses, on the novels and on the target's own writing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaForCausalLM

from cluster.demo.acceptance import write
from cluster.demo.losses import coupled_agreement, draft_loss
from cluster.demo.nf4 import rounded_weights
from cluster.demo.optimizer import SplitOptimizer
from cluster.demo.pretrain import ModelShape, window_starts

DRAFT_SHAPE = ModelShape(hidden=256, layers=2, intermediate=256, heads=4, kv_heads=1)
"""The draft has the target's width, so that it can begin with the target's embeddings, which are also its head."""


@dataclass(frozen=True)
class DistillConfig:
    """How a draft is distilled.

    Attributes:
        steps: Updates.
        window: Tokens in a sequence.
        sequences: Sequences in a batch.
        sampled_share: Share of a batch that is the target's own writing.
        kl_share: Share of the steps before the loss turns from divergence to disagreement.
        exact_share: Share of the steps before the draft's weights are rounded to NF4. The target's always are.
        warm_share: Share of the steps in which the learning rate rises.
    """

    steps: int = 360
    window: int = 256
    sequences: int = 12
    sampled_share: float = 0.375
    lr: float = 4e-3
    kl_share: float = 0.4
    exact_share: float = 0.5
    warm_share: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        shares = (self.sampled_share, self.kl_share, self.exact_share, self.warm_share)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"shares must lie in [0, 1]: {self}")
        if min(self.steps, self.window, self.sequences) < 1:
            raise ValueError(f"steps, window and sequences must be positive: {self}")

    def lr_share(self, step: int) -> float:
        """Share of the peak learning rate: up in a line, then down in a line to nothing."""
        progress = (step + 1) / self.steps
        rise = progress / self.warm_share if self.warm_share else 1.0
        return min(rise, (1 - progress) / max(1e-9, 1 - self.warm_share))


def new_draft(target: LlamaForCausalLM, shape: ModelShape = DRAFT_SHAPE, seed: int = 0) -> LlamaForCausalLM:
    """Return an untrained draft; where the widths agree it has the target's embeddings and last norm."""
    torch.manual_seed(seed)
    draft = LlamaForCausalLM(shape.config())
    if shape.hidden == target.config.hidden_size:
        with torch.no_grad():
            draft.model.embed_tokens.weight.copy_(target.model.embed_tokens.weight)
            draft.model.norm.weight.copy_(target.model.norm.weight)
    return draft


def sample_texts(
    target: LlamaForCausalLM,
    stream: Tensor,
    rows: int,
    window: int,
    temperatures: tuple[float, ...] = (1.0, 0.0, 1.0, 0.8),
    batch: int = 144,
    seed: int = 0,
) -> Tensor:
    """Let a target continue passages of its training text.

    Args:
        target: The model that writes.
        stream: Training ids, shape (tokens,).
        rows: Texts to write.
        window: Tokens of each, less one; a quarter of it, at most 64, is the passage.
        temperatures: Taken in turn, one for each batch.
        batch: Texts written together.
        seed: Of passages and noise.

    Returns:
        Ids, shape (rows, window + 1).
    """
    generator = torch.Generator().manual_seed(seed)
    prompt = max(1, min(64, window // 4))
    written: list[Tensor] = []
    for number in tqdm(range(-(-rows // batch)), "writing"):
        size = min(batch, rows - number * batch)
        starts = torch.randint(len(stream) - prompt, (size,), generator=generator)
        passages = stream[starts[:, None] + torch.arange(prompt)]
        temperature = temperatures[number % len(temperatures)]
        written.append(write(target, passages, window + 1 - prompt, temperature, seed + number))
    return torch.cat(written)


def distill(
    target: LlamaForCausalLM,
    draft: LlamaForCausalLM,
    stream: Tensor,
    sampled: Tensor,
    config: DistillConfig,
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Train a draft in place.

    Args:
        target: The model to agree with; its weights should be those of NF4, as they will be when it runs.
        draft: The model to train.
        stream: Training ids, shape (tokens,).
        sampled: The target's writing, shape (rows, window + 1).
        config: The recipe.
        on_step: Called after each step with the number of steps done.
    """
    torch.manual_seed(config.seed)
    optimizer = SplitOptimizer(draft, config.lr)
    own = round(config.sequences * config.sampled_share)
    span = torch.arange(config.window)
    progress = tqdm(range(config.steps), "distilling")
    for step in progress:
        starts = window_starts(len(stream), config.window, config.sequences - own, step, config.seed)
        batch = torch.cat([stream[starts[:, None] + span], _rows(sampled, own, config.window)])
        with torch.no_grad():
            wanted = target(input_ids=batch, use_cache=False).logits  # (sequences, window, vocab)
        done = step / config.steps
        sharpness = max(0.0, (done - config.kl_share) / max(1e-9, 1 - config.kl_share))
        with rounded_weights(draft, done >= config.exact_share):
            given = draft(input_ids=batch, use_cache=False).logits
            loss = draft_loss(wanted, given, min(1.0, 2 * sharpness), temperature=(1.0, 0.4)[step % 2])
            loss.backward()
        torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
        optimizer.step(config.lr_share(step))
        if step % 50 == 0 or step + 1 == config.steps:
            with torch.no_grad():
                agreement = float(coupled_agreement(wanted[:, ::16], given[:, ::16]).mean())
                greedy = float((wanted.argmax(-1) == given.argmax(-1)).float().mean())
            progress.write(f"step {step}: loss {float(loss.detach()):.3f}, agree {agreement:.3f}, greedy {greedy:.3f}")
        if on_step is not None:
            on_step(step + 1)


def _rows(sampled: Tensor, rows: int, window: int) -> Tensor:
    """Return random rows of the target's writing, shape (rows, window)."""
    return sampled[torch.randint(len(sampled), (rows,)), :window]
