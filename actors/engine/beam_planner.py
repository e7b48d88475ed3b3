"""Which ids of which beams the next forward computes, and which blocks they share, for one search at a time."""

from collections.abc import Callable

from actors.engine.batch import Span
from actors.engine.beam_group import BeamGroup, Turn
from actors.engine.blocks import BlockPool
from actors.engine.scheduled import Scheduled
from actors.engine.sequence import Sequence


class BeamPlanner:
    """The scheduler's hand for searches.

    Attributes:
        forked_keys: beams and others that begin with what they hold, since the engine last looked.
    """

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self.forked_keys: list[tuple[str, str]] = []

    def plan(self, group: BeamGroup, budget: int, make_room: Callable[[], bool]) -> list[Scheduled] | None:
        """Plan a search's next step: what its beams lack, and once that is all that they lack, their newest ids.

        Those are computed together, over the budget if need be, since a step needs the logits of all.

        Args:
            group: the search; its beams get the blocks that the step writes into.
            budget: tokens that the forward has left.
            make_room: frees some blocks; False where it cannot.

        Returns:
            A part for each beam that computes something; None where the blocks do not suffice. The search then holds
            half of what a step needs, and has to give it all up.
        """
        stops = self._stops(group, budget)
        is_last = all(stop == member.num_tokens for member, stop in stops)
        is_narrow = is_last and len(stops) > 1 and all(member.num_missing_tokens == 1 for member, _ in stops)
        plan = []
        for member, stop in stops:
            copies: list[tuple[int, int]] = []
            must_own = self._pool.must_own(member.table, member.num_computed_tokens)
            while not self._pool.can_grow(member.table, stop, num_more=int(must_own)):
                if not make_room():
                    return None
            if must_own:
                copies.append(self._pool.own(member.table))
            self._pool.grow(member.table, stop, stop)
            span = Span(
                key=member.request_id,
                token_ids=member.ids(member.num_computed_tokens, stop),
                start=member.num_computed_tokens,
                runs=tuple((first, count) for first, count in member.table.runs),
                num_logits=int(is_last),
                group=group.request_id if is_narrow else "",
            )
            plan.append(Scheduled(member, span, group=group, copies=tuple(copies)))
        return plan

    def regroup(self, group: BeamGroup, turn: Turn) -> list[Sequence]:
        """Let a search's beams go on as a step has decided, and return those without an heir.

        Beams that go on from the same one share all its blocks; whoever writes into its last one first gets a copy.
        """
        before = group.members
        for source, member in group.go_on(turn):
            self._pool.share(source.table, member.table, len(source.table.ids))
            self._inherit(source, member, source.num_computed_tokens)
        group.append(turn)
        return [member for member in before if not any(member is other for other in group.members)]

    def _stops(self, group: BeamGroup, budget: int) -> list[tuple[Sequence, int]]:
        """Which beams compute up to where."""
        first, *others = group.members
        if others and not others[0].num_computed_tokens:  # the search was preempted
            num_common = group.num_common_tokens()
            if first.num_computed_tokens < num_common:
                return [(first, min(num_common, first.num_computed_tokens + budget))]
            for member in others:
                self._pool.share(first.table, member.table, self._pool.num_blocks_for(num_common))
                self._inherit(first, member, num_common)
        if group.num_missing_tokens <= max(budget, len(group.members)):
            return [(member, member.num_tokens) for member in group.members]
        stops = []
        for member in group.members:
            num_new = min(budget, member.num_missing_tokens - bool(others))  # newest ids wait for one another
            if num_new > 0:
                stops.append((member, member.num_computed_tokens + num_new))
                budget -= num_new
        return stops

    def _inherit(self, source: Sequence, member: Sequence, num_tokens: int) -> None:
        """Enter that a beam holds the first ``num_tokens`` of another."""
        member.num_computed_tokens = num_tokens
        member.digests = source.digests[: num_tokens // self._pool.block_size]
        self.forked_keys.append((source.request_id, member.request_id))
