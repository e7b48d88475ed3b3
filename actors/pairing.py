"""Who works for whom: which target takes a request and which draft runs ahead of it. Pure choices over plain data."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What a choice needs to know of a worker.

    Attributes:
        worker_id: its name.
        num_requests: requests placed on it, or sequences that it drafts for.
        num_tokens: tokens of those requests, prompts included.
    """

    worker_id: str
    num_requests: int
    num_tokens: int


def choose_target(loads: Iterable[Load]) -> str | None:
    """Return the target with the fewest requests, then tokens; None where there is none."""
    best = min(loads, key=lambda load: (load.num_requests, load.num_tokens, load.worker_id), default=None)
    return best.worker_id if best else None


def choose_draft(loads: Iterable[Load], paired: dict[str, int]) -> str | None:
    """Return the draft with the fewest sequences, among equals the one that the target already works with most.

    Sequences of one target that share a draft travel in one message and one forward.

    Args:
        loads: the drafts that are alive.
        paired: draft to the number of sequences that the target has with it.
    """
    best = min(
        loads, key=lambda load: (load.num_requests, -paired.get(load.worker_id, 0), load.worker_id), default=None
    )
    return best.worker_id if best else None
