"""A forward that fails as a whole is run again part by part, so that one request's failure is its own."""

import logging
from collections.abc import Sequence as Seq
from itertools import groupby

import torch

from actors.engine.runner import Runner
from actors.engine.scheduled import Scheduled

logger = logging.getLogger(__name__)


def forward(
    runner: Runner, plan: list[Scheduled], vocab_size: int
) -> tuple[list[Scheduled], torch.Tensor, list[tuple[Scheduled, str]]]:
    """Compute a plan.

    Returns:
        What of the plan was computed; its logits, (sum of num_logits, vocab_size); of each sequence or search that
        failed the first part, and why.
    """
    if copies := [pair for item in plan for pair in item.copies]:
        runner.copy(copies)
    try:
        return plan, runner.forward([item.span for item in plan]), []
    except Exception:
        logger.exception("a forward over %d sequences failed; running them one by one", len(plan))
    survivors: list[Scheduled] = []
    logits = [torch.empty(0, vocab_size)]
    failures = []
    for part in _units(plan):
        try:
            logits.append(runner.forward([item.span for item in part]).to("cpu", torch.float32))
            survivors += part
        except Exception as error:
            failures.append((part[0], f"{type(error).__name__}: {error}"))
    return survivors, torch.cat(logits), failures


def _units(plan: Seq[Scheduled]) -> list[list[Scheduled]]:
    """The plan, with the beams of a search together."""
    return [list(part) for _, part in groupby(plan, key=lambda item: id(item.group or item.sequence))]
