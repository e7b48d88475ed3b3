"""Decides which sequences compute which ids in the next forward.

There are no phases (DESIGN, rule 3): a sequence has ids whose keys and values are missing, and gets as many of them
computed as the budget and the free blocks allow. Prefill chunks, decoding and verification differ only in how many.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from actors.engine.batch import Span
from actors.engine.blocks import BlockPool, block_digest
from actors.engine.config import EngineConfig
from actors.engine.sequence import Sequence, Status

MAX_HOME_TOKENS = 1024  # room kept behind a sequence, so that one with a distant end does not claim all of it


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A sequence and its part of the next forward.

    Of its logits the first ``num_prompt_logits`` are for its prompt; the other ``num_samples`` are sampled from.
    """

    sequence: Sequence
    span: Span
    num_prompt_logits: int = 0

    @property
    def num_samples(self) -> int:
        """Positions at which a token is chosen."""
        return self.span.num_logits - self.num_prompt_logits


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
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # oldest first; the newest is preempted first
        self._parked: dict[str, Sequence] = {}  # least recently parked first; the first to lose its blocks
        self.dropped_keys: list[str] = []  # sequences whose cache was given up since the engine last looked
        self.num_preemptions = 0
        self.num_prefix_hit_tokens = 0

    @property
    def num_running(self) -> int:
        """Sequences that take part in steps."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for room."""
        return len(self._waiting)

    @property
    def num_parked(self) -> int:
        """Draft sequences at their goal."""
        return len(self._parked)

    @property
    def num_queued_tokens(self) -> int:
        """Tokens of running and waiting sequences that are known but not computed."""
        return sum(s.num_tokens - s.num_computed_tokens for queue in (self._running, self._waiting) for s in queue)

    def sequences(self) -> Iterator[Sequence]:
        """All living sequences."""
        yield from self._running
        yield from self._waiting
        yield from self._parked.values()

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence, or keep it parked if that is its status."""
        if sequence.status is Status.PARKED:
            self._parked[sequence.request_id] = sequence
        else:
            self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and free its blocks."""
        self._leave(sequence)
        self._drop_cache(sequence)

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

    def has_work(self) -> bool:
        """Whether a schedule would not be empty."""
        return any(s.can_run for s in self._running) or any(s.can_run for s in self._waiting)

    def schedule(self) -> list[Scheduled]:
        """Plan the next forward. Sequences later in the queue are preempted for earlier ones when blocks run out."""
        budget = self._config.max_num_batched_tokens
        num_logits = self._max_num_prompt_logits
        num_preemptions = self.num_preemptions
        plan: list[Scheduled] = []
        for sequence in list(self._running):
            if budget == 0:
                break
            if not sequence.can_run or sequence.status is not Status.RUNNING:  # preempted for an older one just now
                continue
            item = self._plan(sequence, budget, num_logits, may_preempt=True)
            if item is not None:
                plan.append(item)
                budget -= len(item.span.token_ids)
                num_logits -= item.num_prompt_logits
        for sequence in [s for s in self._waiting if s.can_run]:
            # Whoever was preempted just now would only be preempted again.
            if budget <= 0 or len(self._running) >= self._config.max_num_seqs or num_preemptions < self.num_preemptions:
                break
            self._take_known_prefix(sequence)
            item = self._plan(sequence, budget, num_logits, may_preempt=False)
            if item is None:
                self._drop_cache(sequence)
                break
            self._waiting.remove(sequence)
            sequence.status = Status.RUNNING
            self._running.append(sequence)
            plan.append(item)
            budget -= len(item.span.token_ids)
            num_logits -= item.num_prompt_logits
        return [item for item in plan if item.sequence.status is Status.RUNNING]

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
        everyone = list(self.sequences())
        assert len({s.request_id for s in everyone}) == len(everyone), "a sequence stands in two queues"
        for queue, status in (
            (self._running, Status.RUNNING),
            (self._waiting, Status.WAITING),
            (self._parked.values(), Status.PARKED),
        ):
            assert all(s.status is status for s in queue), f"a sequence among {status.name} has another status"
        for s in everyone:
            assert len(s.table.ids) * self._pool.block_size >= s.num_computed_tokens, "computed tokens without blocks"
            assert s.num_computed_tokens <= s.num_tokens, "more tokens computed than known"
            assert len(s.digests) * self._pool.block_size <= max(s.num_computed_tokens, s.num_final_tokens)
        assert all(not s.table.ids and not s.num_computed_tokens for s in self._waiting if not s.is_draft)
        self._pool.check_integrity(s.table for s in everyone)

    def _plan(self, sequence: Sequence, budget: int, num_logits: int, *, may_preempt: bool) -> Scheduled | None:
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

    def _make_room(self, sequence: Sequence, *, may_preempt: bool) -> bool:
        """Free some blocks for ``sequence``; False if that would take them from an older one, or from itself."""
        for parked in self._parked.values():
            if parked.table.ids:
                self._drop_cache(parked)
                return True
        for waiting in self._waiting:  # a woken draft sequence still holds what it computed
            if waiting is not sequence and waiting.table.ids:
                self._drop_cache(waiting)
                return True
        if not may_preempt or not self._running:
            return False
        newest = self._running[-1]
        if newest is sequence:
            if len(self._running) == 1 or not newest.table.ids:
                return False
            self._preempt(newest)
            return False
        self._preempt(newest)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._drop_cache(sequence)
        sequence.drafts.clear()
        sequence.status = Status.WAITING
        self._waiting.appendleft(sequence)
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

    def _drop_cache(self, sequence: Sequence) -> None:
        if sequence.num_computed_tokens:
            self.dropped_keys.append(sequence.request_id)
        self._pool.release(sequence.table)
        sequence.num_computed_tokens = 0
        sequence.digests.clear()

    def _leave(self, sequence: Sequence) -> None:
        if sequence.status is Status.PARKED:
            del self._parked[sequence.request_id]
        elif sequence.status is Status.RUNNING:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
