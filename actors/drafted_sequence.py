"""One sequence of a target, as the half of it that deals with drafts sees it."""

from dataclasses import dataclass, field

import msgspec

from actors.draft_length import Acceptance, scheduled_length
from actors.engine.params import GenerationParams
from actors.engine.request import Delta, DraftingSummary
from actors.goodput import Plan
from actors.written import Written

MIN_UNSERVED_STEPS = 16  # plain steps of a sequence that its draft said it cannot serve, before it is asked again
MAX_UNSERVED_STEPS = 1024


@dataclass
class Ask:
    """A question to a draft that is still open.

    Attributes:
        position: length of the sequence when it was asked.
        num_draft_tokens: ids that the answer has to have.
        num_at_hand: ids that were known to be written already.
        step: the target's step after which it was asked.
        can_wait: whether the target may wait for the answer.
    """

    position: int
    num_draft_tokens: int
    num_at_hand: int
    time: float
    deadline: float
    step: int
    can_wait: bool


@dataclass
class DraftedSequence:
    """Confirmed ids, the draft that runs ahead of them, and what is known of it.

    Attributes:
        num_acked: confirmed ids that the draft's last answer was built on, 0 before its first.
        goal: length up to which it has been told to write.
        pace: (position, time): when the id of that position was or will be here; later ones follow a step each.
        pinned: its draft length, where that is not left to ``plan``.
        scheduled: what its schedule has made of the length that it pins.
        num_ahead_hits, num_branch_hits: see :class:`actors.status.DraftingStats`; of this sequence alone.
        wait_before: seconds in which its target had stood still for drafts when it came.
    """

    token_ids: list[int]
    num_prompt_tokens: int
    params: GenerationParams
    draft_id: str = ""
    num_acked: int = 0
    goal: int = 0
    pace: tuple[int, float] = (0, 0.0)
    ask: Ask | None = None
    plan: Plan | None = None
    pinned: int | None = None
    scheduled: int | None = None
    written: Written = field(default_factory=Written)
    acceptance: Acceptance = field(default_factory=Acceptance)
    num_unserved_steps: int = 0
    unserved_backoff: int = MIN_UNSERVED_STEPS
    num_ahead_hits: int = 0
    num_branch_hits: int = 0
    wait_before: float = 0.0

    @property
    def emitted_ids(self) -> tuple[int, ...]:
        """The tokens behind the prompt."""
        return tuple(self.token_ids[self.num_prompt_tokens :])

    @property
    def num_remaining_tokens(self) -> int:
        """Tokens that it may still emit."""
        return self.params.max_new_tokens - (len(self.token_ids) - self.num_prompt_tokens)

    @property
    def num_written(self) -> int:
        """Length with the longest path that was drafted ahead."""
        return len(self.token_ids) + len(self.written.ahead(len(self.token_ids)))

    @property
    def is_known(self) -> bool:
        """Whether the draft has answered for it before."""
        return self.num_acked > 0

    def sum_up(self, delta: Delta, wait_time: float) -> Delta:
        """Return its last delta with what drafting did for it; ``wait_time`` is its target's now."""
        if not self.is_known:
            return delta
        drafting = DraftingSummary(self.num_ahead_hits, self.num_branch_hits, wait_time - self.wait_before)
        return msgspec.structs.replace(delta, drafting=drafting)

    def pair(self, draft_id: str) -> None:
        """Change the draft."""
        self.draft_id, self.num_acked, self.goal = draft_id, 0, 0
        self.num_unserved_steps, self.unserved_backoff = 0, MIN_UNSERVED_STEPS
        self.written.clear()

    def unserved(self) -> None:
        """Note that its draft cannot serve it, so that it is not asked for a while, longer each time."""
        self.num_unserved_steps = self.unserved_backoff
        self.unserved_backoff = min(2 * self.unserved_backoff, MAX_UNSERVED_STEPS)
        self.num_acked = 0

    def reschedule(self, delta: Delta, lengths: dict[int, int]) -> None:
        """Let a pinned draft length follow its schedule. ``lengths`` keeps what "heuristic" has made of each."""
        schedule = self.params.num_assistant_tokens_schedule
        if not self.pinned or schedule == "constant":
            return
        before = self.scheduled or lengths.get(self.pinned, self.pinned)
        self.scheduled = scheduled_length(schedule, before, delta.num_drafted, delta.num_accepted)
        if schedule == "heuristic":
            lengths[self.pinned] = self.scheduled


def known_ids(token_ids: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    """Return the ids up to the first that a vocabulary does not have; its size is 0 where it is not known."""
    if not vocab_size:
        return token_ids
    return token_ids[: next((n for n, token_id in enumerate(token_ids) if token_id >= vocab_size), len(token_ids))]
