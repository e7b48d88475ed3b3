"""Prompts as ``generate`` takes them, a padded tensor and its mask, as the rows of token ids that a cluster takes."""

from dataclasses import dataclass
from typing import Any

import torch

from actors.engine.errors import RequestError, TokenIdError


@dataclass(frozen=True)
class PromptBatch:
    """The prompts of one call.

    Attributes:
        input_ids: (rows, width) long, as given, on the caller's device; every result begins with it.
        attention_mask: (rows, width) bool, which ids are no padding.
        rows: each row's ids without padding.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    rows: tuple[tuple[int, ...], ...]

    @property
    def width(self) -> int:
        """Length of the prompts, padding included: what ``max_length`` counts."""
        return int(self.input_ids.shape[1])

    def expand(self, num_copies: int) -> "PromptBatch":
        """Each row ``num_copies`` times, copies next to each other."""
        if num_copies == 1:
            return self
        rows = tuple(row for row in self.rows for _ in range(num_copies))
        ids, mask = (part.repeat_interleave(num_copies, dim=0) for part in (self.input_ids, self.attention_mask))
        return PromptBatch(ids, mask, rows)


def prompt_batch(
    input_ids: Any,
    attention_mask: Any = None,
    *,
    pad_token_id: int | None = None,
    eos_token_ids: tuple[int, ...] = (),
    vocab_size: int | None = None,
) -> PromptBatch:
    """Check a batch and strip its padding.

    Masked positions are dropped wherever they stand. For left-padded prompts that is what transformers computes; for
    right-padded ones, of which it warns and continues behind the padding, the result here is that of the prompt alone.
    Without a mask one is inferred as transformers does: pad tokens are padding, unless eos is the same token.

    Raises:
        RequestError: not an integer tensor of shape (rows, width), nothing in it, a row without any token, a mask of
            another shape.
        TokenIdError: an id outside of the vocabulary.
    """
    if not isinstance(input_ids, torch.Tensor):
        raise RequestError(f"input_ids: a torch.Tensor is needed, but it is {type(input_ids)}", field="input_ids")
    if input_ids.ndim != 2 or input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise RequestError(
            "input_ids: token ids of shape (rows, width) are needed, but it is "
            f"{input_ids.dtype} of shape {tuple(input_ids.shape)}",
            field="input_ids",
        )
    if input_ids.numel() == 0:
        raise RequestError("input_ids: at least one token is needed, but it is empty", field="input_ids", limit="1")
    if vocab_size is not None:
        check_vocabulary("input_ids", input_ids, vocab_size)
    mask = _mask(input_ids, attention_mask, pad_token_id, eos_token_ids)
    rows = tuple(
        tuple(ids[keep].tolist()) for ids, keep in zip(input_ids.cpu().unbind(), mask.cpu().unbind(), strict=True)
    )
    for index, row in enumerate(rows):
        if not row:
            raise RequestError(f"attention_mask: row {index} masks its whole prompt", field="attention_mask")
    return PromptBatch(input_ids.long(), mask, rows)


def check_vocabulary(name: str, token_ids: torch.Tensor, vocab_size: int) -> None:
    """Raise TokenIdError unless all ids of argument ``name`` lie below ``vocab_size``."""
    low, high = int(token_ids.min()), int(token_ids.max())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise TokenIdError(
            f"{name}: the model knows the ids from 0 to {vocab_size - 1}, but there is {wrong}",
            field=name,
            limit=str(vocab_size - 1),
        )


def _mask(
    input_ids: torch.Tensor, attention_mask: Any, pad_token_id: int | None, eos_token_ids: tuple[int, ...]
) -> torch.Tensor:
    """(rows, width) bool: what belongs to the prompts."""
    if attention_mask is None:
        if pad_token_id is None or pad_token_id in eos_token_ids:
            return torch.ones_like(input_ids, dtype=torch.bool)
        return input_ids != pad_token_id
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.shape != input_ids.shape:
        shape = tuple(attention_mask.shape) if isinstance(attention_mask, torch.Tensor) else type(attention_mask)
        raise RequestError(
            f"attention_mask: the shape of input_ids, {tuple(input_ids.shape)}, is needed, but it is {shape}",
            field="attention_mask",
        )
    return attention_mask != 0
