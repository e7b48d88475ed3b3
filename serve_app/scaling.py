"""How many workers a pool needs, from what its replicas report. Pure functions and, around them, Serve's policies.

Serve pickles this file by value and runs it in its controller, which need not have Slipstream: so it imports nothing of
it. Delays in both directions, and the bounds, are Serve's own (``upscale_delay_s``, ``downscale_delay_s``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QUEUED_TOKENS = "queued_tokens"
KV_USE = "kv_use"
BATCH_USE = "batch_use"
DRAFT_WAIT = "draft_wait"
DRAFT_BUSY = "draft_busy"

Loads = Mapping[str, Mapping[Any, float]]
"""Value of each signal by replica, averaged over the window."""


@dataclass(frozen=True)
class Need:
    """Workers that a load asks for: a pool below ``least`` is too small, one above ``most`` too large."""

    least: float
    most: float


def targets_needed(loads: Loads, goals: Mapping[str, float]) -> Need | None:
    """Targets for the signal that asks for most of them; None where nothing was reported.

    Args:
        loads: any of ``queued_tokens``, ``kv_use``, ``batch_use``.
        goals: what one target should have of each.
    """
    needs = [sum(loads[signal].values()) / goal for signal, goal in goals.items() if loads.get(signal)]
    return Need(max(needs), max(needs)) if needs else None


def drafts_needed(loads: Loads, wait: float, busy: float) -> Need | None:
    """Drafts to grow to, and to shrink to; None where nothing was reported.

    More of them help only where targets wait for them *and* they compute: a draft that is idle while a target waits is
    slow to reach, not short of time. Fewer suffice where those that are left can do the work, whoever waits.

    Args:
        loads: ``draft_wait``, the same for the whole pool, and ``draft_busy`` of each draft.
        wait: the share of its time that a target should wait.
        busy: the share of its time that a draft should compute.
    """
    waits, shares = loads.get(DRAFT_WAIT, {}), loads.get(DRAFT_BUSY, {})
    if not waits or not shares:
        return None
    for_waits = len(waits) * (sum(waits.values()) / len(waits)) / wait
    for_work = sum(shares.values()) / busy
    return Need(min(for_waits, for_work), for_work)


def choose_size(current: int, need: Need | None, tolerance: float) -> int:
    """The size of a pool that is ``current`` now: as little changed as the need and the tolerance allow.

    The tolerance is the hysteresis: a pool of n grows only above a need of n (1 + tolerance), and shrinks to a size
    only where the need lies below it by as much.
    """
    if need is None:
        return current
    least = math.ceil(need.least / (1.0 + tolerance) - 1e-9)
    most = math.ceil(need.most / (1.0 - tolerance) - 1e-9)
    return min(max(current, least), most)


class TargetPolicy:
    """Serve's policy for a pool of targets; the arguments are ``ScalingConfig``'s ``target_*`` and its tolerance."""

    def __init__(self, queued_tokens: float, kv_use: float, batch_use: float, tolerance: float) -> None:
        self._goals = {QUEUED_TOKENS: queued_tokens, KV_USE: kv_use, BATCH_USE: batch_use}
        self._tolerance = tolerance

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Replicas (an ``AutoscalingContext`` in), and no state of our own."""
        need = targets_needed(context.aggregated_metrics or {}, self._goals)
        return choose_size(context.target_num_replicas, need, self._tolerance), {}


class DraftPolicy:
    """Serve's policy for a pool of drafts."""

    def __init__(self, draft_wait: float, draft_busy: float, tolerance: float) -> None:
        self._wait, self._busy = draft_wait, draft_busy
        self._tolerance = tolerance

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Replicas (an ``AutoscalingContext`` in), and no state of our own."""
        need = drafts_needed(context.aggregated_metrics or {}, self._wait, self._busy)
        return choose_size(context.target_num_replicas, need, self._tolerance), {}
