"""What drafting did for one request, counted on its reader's side from the deltas that came."""

import msgspec

from actors.engine.counters import Counters
from actors.engine.request import Delta


class RequestStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one request, in vLLM's words where it has them.

    Attributes:
        num_steps: forwards of a target that brought it tokens.
        num_drafts: those of them that checked drafts of it: its rounds.
        num_draft_tokens, num_accepted_tokens: drafted tokens that were checked, and that were right.
        num_accepted_tokens_per_pos: the latter by their position in the draft.
        num_ahead_hits: times that its next drafts were at hand when its step had ended.
        num_branch_hits: times that its draft had gone on from a second choice, and that was what the target had.
        wait_time: seconds in which its target stood still for drafts while it ran.
    """

    num_steps: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_accepted_tokens_per_pos: tuple[int, ...] = ()
    num_ahead_hits: int = 0
    num_branch_hits: int = 0
    wait_time: float = 0.0

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted over drafted tokens; None where nothing was drafted."""
        return self.num_accepted_tokens / self.num_draft_tokens if self.num_draft_tokens else None


class RequestTally:
    """Counts the deltas of one request, each of which must be new.

    ``num_full`` is the drafts that were right to their end, which leaves no refused token behind.
    """

    def __init__(self) -> None:
        self._counters = Counters()
        self._ending = RequestStats()
        self.num_full = 0

    def add(self, delta: Delta) -> None:
        """Count a delta. The last one has what only its target knows."""
        self._counters.num_steps += bool(delta.token_ids)
        self._counters.count_check(delta.num_drafted, delta.num_accepted)
        self.num_full += 0 < delta.num_drafted == delta.num_accepted
        if delta.drafting is not None:
            self._ending = RequestStats(
                num_ahead_hits=delta.drafting.num_ahead_hits,
                num_branch_hits=delta.drafting.num_branch_hits,
                wait_time=delta.drafting.wait_time,
            )

    def stats(self) -> RequestStats:
        """Return the counts so far."""
        return msgspec.structs.replace(
            self._ending,
            num_steps=self._counters.num_steps,
            num_drafts=self._counters.num_drafts,
            num_draft_tokens=self._counters.num_draft_tokens,
            num_accepted_tokens=self._counters.num_accepted_tokens,
            num_accepted_tokens_per_pos=tuple(self._counters.accepted_per_position),
        )
