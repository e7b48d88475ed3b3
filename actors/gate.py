"""The gate before a target's forward: closed while drafts that are about to come are worth waiting for."""

from collections.abc import Iterable, Mapping

from actors.config import RouterConfig
from actors.draft_view import DraftView
from actors.drafted_sequence import Ask, DraftedSequence
from actors.goodput import Plan
from actors.planner import Planner
from actors.prospect import Prospect, worthwhile_wait

PATIENCE = 1.0  # how much longer than expected a wait may take, as a part of it, before the target runs on
MIN_PATIENCE = 0.002


class Gate:
    """Decides anew whenever something has changed, and opens by itself when its time is over."""

    def __init__(self, config: RouterConfig, planner: Planner, drafts: Mapping[str, DraftView]) -> None:
        self._config = config
        self._planner = planner
        self._drafts = drafts
        self._opens_at: float | None = 0.0  # None: to be decided
        self._awaited: set[str] = set()

    @property
    def opens_at(self) -> float:
        """When a closed gate opens, 0 where it is open or not decided."""
        return self._opens_at or 0.0

    def reconsider(self) -> None:
        """Note that something has changed."""
        self._opens_at = None

    def is_open(self, sequences: Iterable[DraftedSequence], now: float, *, has_new: bool) -> bool:
        """Whether to run now.

        Args:
            sequences: those that would take part.
            now: the time.
            has_new: whether prompts are to be computed. They do not wait for the drafts of others.
        """
        if self._opens_at is None:
            self._opens_at = 0.0 if has_new else self._decide(sequences, now)
        elif 0.0 < self._opens_at <= now:
            for draft_id in self._awaited:
                self._drafts[draft_id].is_late = True
            self._opens_at = 0.0
        return self._opens_at <= now

    def _decide(self, sequences: Iterable[DraftedSequence], now: float) -> float:
        """Return the time until which to wait for drafts, 0 where the engine should run now."""
        self._awaited.clear()
        prospects = []
        rate = 0.0
        first_asked = now
        for sequence in sequences:
            plan, ask = sequence.plan, sequence.ask
            if plan is None:
                continue
            rate += plan.rate
            if sequence.pinned is not None or ask is None or not ask.can_wait or not sequence.draft_id:
                continue
            view = self._drafts[sequence.draft_id]
            if not view.can_wait():
                continue
            prospects.append(self._prospect(sequence, plan, ask, view))
            self._awaited.add(sequence.draft_id)
            first_asked = min(first_asked, ask.time)
        until = worthwhile_wait(prospects, rate, now, self._config.draft_timeout)
        if until <= now:
            return 0.0
        return until + max(MIN_PATIENCE, PATIENCE * (until - first_asked))

    def _prospect(self, sequence: DraftedSequence, plan: Plan, ask: Ask, view: DraftView) -> Prospect:
        """What a draft is about to send for a sequence."""
        end = sequence.num_written
        at_hand = end - len(sequence.token_ids)
        num_first = max(1, ask.num_draft_tokens - at_hand)
        step = view.steps[self._planner.is_overlapped].value
        position, time = sequence.pace
        first = time + (end + num_first - 1 - position) * step
        return Prospect(first, step, num_first, plan.gains[at_hand : sequence.goal - len(sequence.token_ids)])
