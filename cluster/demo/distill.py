"""Training of the draft: to choose what the target chooses, on the novels and on the target's own writing."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaForCausalLM

from cluster.demo.acceptance import write
from cluster.demo.losses import coupled_agreement, draft_loss
from cluster.demo.nf4 import rounded_weights
from cluster.demo.optimizer import SplitOptimizer
from cluster.demo.pretrain import window_starts

logger = logging.getLogger(__name__)

_CHUNK = 64  # steps whose places in the text are sent to the device together


@dataclass(frozen=True)
class DistillConfig:
    """How a draft is distilled.

    Attributes:
        steps: Updates, if there is no time to keep.
        seconds: Time to keep: as many updates as it holds. It counts from the end of the first.
        window: Tokens in a sequence.
        sequences: Sequences in a batch.
        sampled_share: Share of a batch that is the target's own writing.
        lr: Peak learning rate.
        kl_share: Share of the training before the loss turns from divergence to disagreement.
        exact_share: Share of the training before the draft's weights are rounded to NF4. The target's always are.
        warm_share: Share of the training in which the learning rate rises.
    """

    steps: int = 360
    seconds: float | None = None
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
        if self.seconds is not None and self.seconds <= 0:
            raise ValueError(f"seconds must be positive: {self}")

    @property
    def own(self) -> int:
        """Sequences of a batch that the target wrote."""
        return round(self.sequences * self.sampled_share)

    def lr_share(self, done: float) -> float:
        """Share of the peak learning rate after a share of the training: up in a line, then down in a line to none."""
        rise = done / self.warm_share if self.warm_share else 1.0
        return min(rise, (1 - done) / max(1e-9, 1 - self.warm_share))

    def pace(self, clock: Callable[[], float] = time.monotonic) -> Iterator[float]:
        """Yield before each step the share of the training that is done, of steps or of time, in [0, 1)."""
        if self.seconds is None:
            yield from ((step + 0.5) / self.steps for step in range(self.steps))
            return
        yield 0.0  # the first step also loads kernels, and tells nothing of the others
        started = clock()
        while (done := (clock() - started) / self.seconds) < 1:
            yield done


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
        stream: Training ids, shape (tokens,), where the target is.
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
        passages = stream[(starts[:, None] + torch.arange(prompt)).to(stream.device)]
        temperature = temperatures[number % len(temperatures)]
        written.append(write(target, passages, window + 1 - prompt, temperature, seed + number))
    return torch.cat(written)


def batches_of_indices(
    num_tokens: int, num_written: int, config: DistillConfig, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each step, without end, what its batch is made of.

    Args:
        num_tokens: Length of the training text.
        num_written: Texts of the target's own.
        config: The recipe.
        device: Where indices are wanted. They are sent for many steps at once, since a copy waits for the device.

    Yields:
        Where windows of the training text begin, shape (sequences - own,), and which of the texts to take, (own,).
    """
    generator = torch.Generator().manual_seed(config.seed)
    theirs = config.sequences - config.own
    for first in itertools.count(0, _CHUNK):
        steps = range(first, first + _CHUNK)
        starts = torch.stack([window_starts(num_tokens, config.window, theirs, step, config.seed) for step in steps])
        rows = torch.randint(num_written, (_CHUNK, config.own), generator=generator)
        yield from zip(starts.to(device), rows.to(device), strict=True)


def distill(
    target: LlamaForCausalLM,
    draft: LlamaForCausalLM,
    stream: Tensor,
    sampled: Tensor,
    config: DistillConfig,
    on_step: Callable[[int], None] | None = None,
) -> int:
    """Train a draft in place.

    Args:
        target: The model to agree with; its weights should be those of NF4, as they will be when it runs.
        draft: The model to train, on the same device as everything else.
        stream: Training ids, shape (tokens,).
        sampled: The target's writing, shape (rows, window + 1).
        config: The recipe.
        on_step: Called after each step with the number of steps done.

    Returns:
        The number of steps.
    """
    torch.manual_seed(config.seed)
    optimizer = SplitOptimizer(draft, config.lr)
    span = torch.arange(config.window, device=stream.device)
    # Without a mask transformers looks for one in the positions, and waits for the device twice a step.
    causal = torch.ones(config.window, config.window, dtype=torch.bool, device=stream.device).tril()[None, None]
    indices = batches_of_indices(len(stream), len(sampled), config, stream.device)
    step = -1
    for step, done in enumerate(config.pace()):
        starts, rows = next(indices)
        batch = torch.cat([stream[starts[:, None] + span], sampled[rows, : config.window]])
        with torch.no_grad():
            wanted = target(
                input_ids=batch, attention_mask=causal, use_cache=False
            ).logits  # (sequences, window, vocab)
        sharpness = max(0.0, (done - config.kl_share) / max(1e-9, 1 - config.kl_share))
        with rounded_weights(draft, done >= config.exact_share):
            given = draft(input_ids=batch, attention_mask=causal, use_cache=False).logits
            loss = draft_loss(wanted, given, min(1.0, 2 * sharpness), temperature=(1.0, 0.4)[step % 2])
            loss.backward()
        torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
        optimizer.step(config.lr_share(done))
        if step % 100 == 0:
            with torch.no_grad():
                agree = float(coupled_agreement(wanted[:, ::16], given[:, ::16]).mean())
                greedy = float((wanted.argmax(-1) == given.argmax(-1)).float().mean())
            values = (step, 100 * done, float(loss.detach()), agree, greedy)
            logger.info("step %d (%.0f %%): loss %.3f, agree %.3f, greedy %.3f", *values)
        if on_step is not None:
            on_step(step + 1)
    return step + 1
