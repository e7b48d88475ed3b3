"""What an operator might register under ``processors``: classes, a function that makes one, and some that fail."""

from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

NOT_CALLABLE = 7


class BanEvery(LogitsProcessor):
    """Rules out each ``step``-th token, from ``offset`` on."""

    def __init__(self, step: int, offset: int = 0) -> None:
        if step < 1:
            raise ValueError("step must be at least 1")
        self.step, self.offset = step, offset

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, self.offset :: self.step] = -torch.inf
        return scores


class EndAtLength(StoppingCriteria):
    """Ends a sequence at ``num_tokens``, prompt included."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.num_tokens)


class FailingProcessor(LogitsProcessor):
    """Raises once ``num_tokens`` are there."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] >= self.num_tokens:
            raise ZeroDivisionError("nothing to divide by")
        return scores


class FailingCriterion(EndAtLength):
    """Raises once ``num_tokens`` are there."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        if input_ids.shape[1] >= self.num_tokens:
            raise ZeroDivisionError("nothing to divide by")
        return False


class Shrinks(LogitsProcessor):
    """Gives fewer scores than it got."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores[:, 1:]


def ban_odd() -> LogitsProcessor:
    """Makes a processor."""
    return BanEvery(2, offset=1)


PATHS = {
    "ban_every": f"{__name__}:BanEvery",
    "ban_odd": f"{__name__}:ban_odd",
    "end_at_length": f"{__name__}:EndAtLength",
    "failing_processor": f"{__name__}:FailingProcessor",
    "failing_criterion": f"{__name__}:FailingCriterion",
    "shrinks": f"{__name__}:Shrinks",
}
