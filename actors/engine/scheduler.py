"""Decides which sequences compute which ids in the next forward.

There are no phases (DESIGN, rule 3): a sequence has ids whose keys and values are missing, and gets as many of them
computed as the budget and the free blocks allow. Prefill chunks, decoding and verification differ only in how many.
"""

from collections import deque
from collections.abc import Iterator

from actors.engine.batch import Span
from actors.engine.beam_group import BeamGroup, Turn
from actors.engine.beam_planner import BeamPlanner
from actors.engine.blocks import BlockPool, block_digest
from actors.engine.config import EngineConfig
from actors.engine.scheduled import Scheduled
from actors.engine.sequence import Sequence, Status

MAX_HOME_TOKENS = 1024  # room kept behind a sequence, so that one with a distant end does not claim all of it

Unit = Sequence | BeamGroup
"""What runs, is preempted and ends as one: a sequence, or all beams of a search."""


class Scheduler:
    """Queues, block tables and preemption. Owns no tensors.

    ``max_num_prompt_logits`` bounds the rows of logits that one forward computes for the log-probabilities of prompts.
    """

    def __init__(
        self,
        config: EngineConfig,
        pool: BlockPool,
        *,
        is_chunkable: bool = True,
        max_num_prompt_logits: int = 1024,
    ) -> None:
        self._config = config
        self._pool = pool
        self._is_chunkable = is_chunkable
        self._max_num_prompt_logits = max_num_prompt_logits
        self._waiting: deque[Unit] = deque()
        self._running: list[Unit] = []  # oldest first; the newest is preempted first
        self._parked: dict[str, Sequence] = {}  # least recently parked first; the first to lose its blocks
        self.dropped_keys: list[str] = []  # sequences whose cache was given up since the engine last looked
        self.beams = BeamPlanner(pool)
        self.num_preemptions = 0
        self.num_prefix_hit_tokens = 0

    @property
    def num_running(self) -> int:
        """Sequences and searches that take part in steps."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences and searches that wait for room."""
        return len(self._waiting)

    @property
    def num_parked(self) -> int:
        """Draft sequences at their goal."""
        return len(self._parked)

    @property
    def num_queued_tokens(self) -> int:
        """Tokens of running and waiting sequences that are known but not computed."""
        return sum(unit.num_missing_tokens for queue in (self._running, self._waiting) for unit in queue)

    def units(self) -> Iterator[Unit]:
        """All living sequences and searches."""
        yield from self._running
        yield from self._waiting
        yield from self._parked.values()

    def add(self, unit: Unit) -> None:
        """Queue a sequence or a search, or keep a sequence parked if that is its status."""
        if isinstance(unit, Sequence) and unit.status is Status.PARKED:
            self._parked[unit.request_id] = unit
        else:
            self._waiting.append(unit)

    def remove(self, unit: Unit) -> None:
        """Forget a sequence or a search and free its blocks."""
        self._leave(unit)
        self._drop_cache(unit)

    def park(self, sequence: Sequence) -> None:
        """Take a draft sequence out of steps and keep its blocks."""
        self._leave(sequence)
        sequence.status = Status.PARKED
        self._parked[sequence.request_id] = sequence

    def wake(self, sequence: Sequence) -> None:
        """Let a parked sequence take part in steps again."""
        if sequence.status is not Status.PARKED:
            return
        self._leave(sequence)
        sequence.status = Status.WAITING
        self._waiting.append(sequence)

    def fork(self, source: Sequence, sequence: Sequence) -> None:
        """Let a new draft sequence, whose ids but the last are the first of ``source``, run from its full blocks on."""
        num_blocks = min(source.num_computed_tokens, sequence.num_tokens - 1) // self._pool.block_size
        self._pool.share(source.table, sequence.table, num_blocks)
        sequence.num_computed_tokens = num_blocks * self._pool.block_size
        sequence.digests = source.digests[:num_blocks]
        self.add(sequence)
        self.wake(sequence)

    def regroup(self, group: BeamGroup, turn: Turn) -> None:
        """Let a search's beams go on as a step has decided."""
        for member in self.beams.regroup(group, turn):
            self._drop_cache(member)

    def has_work(self) -> bool:
        """Whether a schedule would not be empty."""
        return any(u.can_run for u in self._running) or any(u.can_run for u in self._waiting)

    def schedule(self, *, has_beams: bool = True) -> list[Scheduled]:
        """Plan the next forward. Sequences later in the queue are preempted for earlier ones when blocks run out.

        Without ``has_beams`` searches keep still, unless nothing else can run. In the plan they come last, the beams of
        each side by side.
        """
        budget = self._config.max_num_batched_tokens
        num_logits = self._max_num_prompt_logits
        num_preemptions = self.num_preemptions
        plan: list[Scheduled] = []
        for unit in [u for u in self._running if self._may_run(u, has_beams)]:
            if budget <= 0:
                break
            if unit.status is not Status.RUNNING:  # preempted for an older one just now
                continue
            items = self._plan(unit, budget, num_logits, may_preempt=True)
            plan += items
            budget -= sum(len(item.span.token_ids) for item in items)
            num_logits -= sum(item.num_prompt_logits for item in items)
        is_full = {Sequence: False, BeamGroup: False}
        for unit in [u for u in self._waiting if self._may_run(u, has_beams)]:
            # Whoever was preempted just now would only be preempted again.
            if budget <= 0 or num_preemptions < self.num_preemptions:
                break
            is_full[type(unit)] = is_full[type(unit)] or not self._has_place(unit)
            if is_full[type(unit)]:
                continue
            self._take_known_prefix(unit.members[0])
            items = self._plan(unit, budget, num_logits, may_preempt=False)
            if not items:
                self._drop_cache(unit)
                break
            self._waiting.remove(unit)
            unit.status = Status.RUNNING
            self._running.append(unit)
            plan += items
            budget -= sum(len(item.span.token_ids) for item in items)
            num_logits -= sum(item.num_prompt_logits for item in items)
        plan = [item for item in plan if (item.group or item.sequence).status is Status.RUNNING]
        if not plan and not has_beams:
            return self.schedule()
        return sorted(plan, key=lambda item: item.group is not None)

    def publish(self, sequence: Sequence) -> None:
        """Make known the full blocks whose ids are computed and final."""
        size = self._pool.block_size
        num_full = min(sequence.num_computed_tokens, sequence.num_final_tokens) // size
        for index in range(len(sequence.digests), num_full):
            parent = sequence.digests[-1] if sequence.digests else b""
            digest = block_digest(parent, sequence.token_ids[index * size : (index + 1) * size])
            sequence.digests.append(digest)
            self._pool.publish(sequence.table, index, digest)

    def rewind(self, sequence: Sequence, num_tokens: int) -> None:
        """Give up keys and values behind the first ``num_tokens``."""
        if num_tokens >= sequence.num_computed_tokens:
            return
        sequence.num_computed_tokens = self._pool.truncate(sequence.table, num_tokens)
        del sequence.digests[sequence.num_computed_tokens // self._pool.block_size :]
        if not self._is_chunkable:
            self._drop_cache(sequence)

    def check_integrity(self) -> None:
        """Raise AssertionError unless queues, tables and pool agree."""
        units = list(self.units())
        assert len({u.request_id for u in units}) == len(units), "a sequence stands in two queues"
        everyone = [member for unit in units for member in unit.members]
        assert len({id(s) for s in everyone}) == len(everyone), "a sequence is two beams"
        for queue, status in (
            (self._running, Status.RUNNING),
            (self._waiting, Status.WAITING),
            (self._parked.values(), Status.PARKED),
        ):
            assert all(u.status is status for u in queue), f"a sequence among {status.name} has another status"
        for s in everyone:
            assert len(s.table.ids) * self._pool.block_size >= s.num_computed_tokens, "computed tokens without blocks"
            assert s.num_computed_tokens <= s.num_tokens, "more tokens computed than known"
            assert len(s.digests) * self._pool.block_size <= max(s.num_computed_tokens, s.num_final_tokens)
        waiting = [member for unit in self._waiting if not unit.is_draft for member in unit.members]
        assert all(not s.table.ids and not s.num_computed_tokens for s in waiting)
        for unit in units:
            lengths = {member.num_tokens for member in unit.members}
            assert len(lengths) == 1, "beams differ in length"
        self._pool.check_integrity(s.table for s in everyone)

    def _may_run(self, unit: Unit, has_beams: bool) -> bool:
        return unit.can_run and (has_beams or isinstance(unit, Sequence))

    def _has_place(self, unit: Unit) -> bool:
        """Whether the bound on running sequences leaves room. Beams count apart: neither keeps the other out."""
        if isinstance(unit, Sequence):
            return sum(isinstance(u, Sequence) for u in self._running) < self._config.max_num_seqs
        num_beams = sum(u.params.num_beams for u in self._running if isinstance(u, BeamGroup))
        return not num_beams or num_beams + unit.params.num_beams <= self._config.max_num_seqs

    def _plan(self, unit: Unit, budget: int, num_logits: int, *, may_preempt: bool) -> list[Scheduled]:
        if isinstance(unit, BeamGroup):
            budget = budget if self._is_chunkable else self._pool.num_blocks * self._pool.block_size
            items = self.beams.plan(unit, budget, lambda: self._make_room(unit, may_preempt=may_preempt))
            if items is None:
                self._drop_cache(unit)
            return items or []
        item = self._plan_one(unit, budget, num_logits, may_preempt=may_preempt)
        return [] if item is None else [item]

    def _plan_one(self, sequence: Sequence, budget: int, num_logits: int, *, may_preempt: bool) -> Scheduled | None:
        if sequence.prompt_logprobs is not None and self._is_chunkable:
            num_without = max(0, len(sequence.prompt_logprobs) - sequence.num_computed_tokens)
            budget = min(budget, num_without + num_logits)
            if budget <= 0:
                return None  # its turn comes in the next step
        num_new = sequence.num_tokens_to_compute
        if num_new > budget and self._is_chunkable:
            sequence.drafts.clear()  # a draft cut by the budget would be half a check
            num_new = min(sequence.num_tokens_to_compute, budget)
        start = sequence.num_computed_tokens
        while not self._pool.can_grow(sequence.table, start + num_new):
            if not self._make_room(sequence, may_preempt=may_preempt):
                return None
        expected = min(sequence.max_num_tokens, start + num_new + MAX_HOME_TOKENS)
        self._pool.grow(sequence.table, start + num_new, expected)
        is_complete = start + num_new >= sequence.num_tokens
        num_prompt_logits = sequence.num_prompt_logits(start, start + num_new)
        return Scheduled(
            sequence,
            Span(
                key=sequence.request_id,
                token_ids=sequence.ids(start, start + num_new),
                start=start,
                runs=tuple((first, count) for first, count in sequence.table.runs),
                num_logits=num_prompt_logits + (1 + len(sequence.drafts) if is_complete else 0),
            ),
            num_prompt_logits,
        )

    def _make_room(self, unit: Unit, *, may_preempt: bool) -> bool:
        """Free some blocks for ``unit``; False if that would take them from an older one, or from itself."""
        for parked in self._parked.values():
            if parked.table.ids:
                self._drop_cache(parked)
                return True
        for waiting in self._waiting:  # a woken draft sequence still holds what it computed
            if waiting is not unit and _holds_blocks(waiting):
                self._drop_cache(waiting)
                return True
        if not may_preempt or not self._running:
            return False
        newest = self._running[-1]
        if newest is unit:
            if len(self._running) == 1 or not _holds_blocks(newest):
                return False
            self._preempt(newest)
            return False
        self._preempt(newest)
        return True

    def _preempt(self, unit: Unit) -> None:
        self._running.remove(unit)
        self._drop_cache(unit)
        if isinstance(unit, Sequence):
            unit.drafts.clear()
        unit.status = Status.WAITING
        self._waiting.appendleft(unit)
        self.num_preemptions += 1

    def _take_known_prefix(self, sequence: Sequence) -> None:
        if sequence.table.ids or not self._config.prefix_cache or not self._is_chunkable:
            return
        size = self._pool.block_size
        num_usable = sequence.num_reusable_tokens // size  # the last id must yield logits
        digests: list[bytes] = []
        for index in range(num_usable):
            parent = digests[-1] if digests else b""
            digests.append(block_digest(parent, sequence.token_ids[index * size : (index + 1) * size]))
        num_found = self._pool.adopt(sequence.table, digests)
        sequence.digests = digests[:num_found]
        sequence.num_computed_tokens = num_found * size
        self.num_prefix_hit_tokens += sequence.num_computed_tokens

    def _drop_cache(self, unit: Unit) -> None:
        for member in unit.members:
            if member.num_computed_tokens:
                self.dropped_keys.append(member.request_id)
            self._pool.release(member.table)
            member.num_computed_tokens = 0
            member.digests.clear()

    def _leave(self, unit: Unit) -> None:
        if unit.status is Status.PARKED:
            del self._parked[unit.request_id]
        elif unit.status is Status.RUNNING:
            self._running.remove(unit)
        else:
            self._waiting.remove(unit)


def _holds_blocks(unit: Unit) -> bool:
    return any(member.table.ids for member in unit.members)
