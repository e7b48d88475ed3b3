"""An engine that computes nothing: it waits as long as a model would and emits tokens of its own making.

For measuring coordination at latencies and numbers of actors that a machine does not have. Its tokens are a function of
(seed, absolute position) alone, so a sequence reads the same with any draft and after any failover. Where it drafts, it
knows what the target will emit and gets it right with the probability that was set. What it stands for shows in its
``WorkerInfo``; nothing that it reports is a property of a model.
"""

import dataclasses
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from actors.config import SimulationConfig, WorkerConfig
from actors.engine.admission import check_request
from actors.engine.config import EngineConfig
from actors.engine.counters import Counters
from actors.engine.errors import OverloadedError, RequestError
from actors.engine.protocol import TokenEngine
from actors.engine.request import Delta, EngineStats, Request
from actors.simulated_sequence import SimulatedSequence, step_seconds
from actors.status import WorkerInfo

DEFAULT_NUM_BLOCKS = 4096
LABEL = "simulated"


def simulate(info: WorkerInfo, config: WorkerConfig, simulation: SimulationConfig) -> tuple[TokenEngine, WorkerInfo]:
    """Build the simulated engine of one worker, and the label that says so."""
    engine = SimulatedEngine(simulation, config.engine)
    return engine, msgspec.structs.replace(
        info,
        quantization=LABEL,
        dtype=LABEL,
        devices=(LABEL,),
        num_blocks=engine.stats().num_blocks,
        block_size=config.engine.block_size,
        max_model_len=engine.max_model_len,
        vocab_size=simulation.vocab_size,
        notes=("simulated: no model is computed, tokens are made up and times are set",),
    )


class SimulatedEngine:
    """Fulfils :class:`actors.engine.protocol.TokenEngine` without a model. Free of torch.

    Sequences run in the order of their arrival as long as there are blocks for them; the blocks of parked draft
    sequences are taken back first. No prefix is shared and nothing is preempted: a sequence claims the blocks of its
    whole length when it starts.

    Attributes:
        acceptance: probability with which what it drafts is right; may be changed while it runs.

    Args:
        simulation: times and acceptance.
        config: bounds, as for a real engine.
        clock: seconds, for ``max_time``.
        wait: lets a forward's time pass.
    """

    def __init__(
        self,
        simulation: SimulationConfig,
        config: EngineConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._simulation = simulation
        self._config = config
        self._clock = clock
        self._wait = wait
        self._num_blocks = config.num_blocks or DEFAULT_NUM_BLOCKS
        self._num_free = self._num_blocks
        self.max_model_len = config.max_model_len or self._num_blocks * config.block_size
        self._waiting: OrderedDict[str, SimulatedSequence] = OrderedDict()
        self._running: OrderedDict[str, SimulatedSequence] = OrderedDict()
        self._drafts: OrderedDict[str, SimulatedSequence] = OrderedDict()
        self._ended: list[Delta] = []
        self._counters = Counters()
        self.num_step_tokens = 0
        self.acceptance = simulation.acceptance

    def add(self, request: Request) -> None:
        """See :class:`TokenEngine`. Raises OverloadedError where the queue is full."""
        if self._target(request.request_id) is not None:
            raise RequestError(f"request_id: {request.request_id} is already running", field="request_id")
        if request.params.has_beams:
            raise RequestError("num_beams: a simulated engine searches for nothing", field="num_beams", limit="1")
        limit = self._config.max_num_waiting
        if len(self._waiting) >= limit:
            raise OverloadedError(f"the queue is full: {limit} requests wait", limit=str(limit))
        sequence = self._begin(request, is_draft=False)
        self._counters.num_prompt_tokens += sequence.num_prompt
        reason = sequence.reason(self._clock()) if request.emitted_token_ids else None
        if reason is None:
            self._waiting[request.request_id] = sequence
        else:  # all was emitted already; only the end had not been told
            delta = Delta(request_id=request.request_id, start=sequence.num_emitted, finish_reason=reason)
            self._ended.append(delta)

    def propose(self, request_id: str, start: int, token_ids: Sequence[int]) -> None:
        """See :class:`TokenEngine`."""
        if (sequence := self._target(request_id)) is not None:
            sequence.is_held = False
            sequence.attach(start, token_ids)

    def hold(self, request_id: str) -> None:
        """See :class:`TokenEngine`."""
        if (sequence := self._target(request_id)) is not None:
            sequence.is_held = True

    def release(self, request_id: str) -> None:
        """See :class:`TokenEngine`."""
        if (sequence := self._target(request_id)) is not None:
            sequence.is_held = False

    def abort(self, request_id: str) -> None:
        """See :class:`TokenEngine`."""
        self._ended = [delta for delta in self._ended if delta.request_id != request_id]
        for queue in (self._waiting, self._running, self._drafts):
            sequence = queue.pop(request_id, None)
            if sequence is not None:
                self._free(sequence)

    def open(self, request: Request) -> None:
        """See :class:`TokenEngine`."""
        self.abort(request.request_id)
        self._drafts[request.request_id] = self._begin(request, is_draft=True)

    def extend(
        self, request_id: str, start: int, token_ids: Sequence[int], num_new_tokens: int, num_ahead: int = 0
    ) -> None:
        """See :class:`TokenEngine`."""
        sequence = self._drafts[request_id]
        if start > sequence.num_known:
            raise KeyError(request_id)
        sequence.correct(start, token_ids, num_new_tokens, num_ahead)
        self._drafts.move_to_end(request_id)
        self._ended = [delta for delta in self._ended if delta.request_id != request_id]
        if sequence.is_parked:
            self._ended.append(sequence.drafted())

    def fork(self, request_id: str, fork_id: str, position: int, num_new_tokens: int) -> int | None:
        """See :class:`TokenEngine`."""
        source = self._drafts.get(request_id)
        if source is None or not source.num_known <= position < len(source.ids):
            return None
        self.abort(fork_id)
        token = source.second_choice(position, self.acceptance, self._simulation.second_acceptance)
        fork = dataclasses.replace(
            source,
            request_id=fork_id,
            ids=[*source.ids[:position], token],
            num_computed=min(source.num_computed, position),
            num_blocks=0,
            num_to_answer=position + 1,
            goal=min(position + 1 + num_new_tokens, source.max_num_tokens),
        )
        self._drafts[fork_id] = fork
        return token

    def has_work(self) -> bool:
        """See :class:`TokenEngine`."""
        return (
            bool(self._ended)
            or any(not s.is_held for s in self._running.values())
            or any(not s.is_held for s in self._waiting.values())
            or any(not s.is_parked for s in self._drafts.values())
        )

    def step(self) -> list[Delta]:
        """See :class:`TokenEngine`."""
        started = self._clock()
        deltas, self._ended = self._ended, []
        self.num_step_tokens = 0
        batch = self._schedule()
        if not batch:
            return deltas
        num_tokens = sum(count for _, count in batch)
        seconds = step_seconds(self._simulation.step_times, num_tokens)
        if seconds > 0:
            self._wait(seconds)
        now = self._clock()
        for sequence, count in batch:
            delta = self._advance(sequence, count, now)
            deltas += [delta] if delta is not None else []
        elapsed = self._clock() - started
        self._counters.num_steps += 1
        self.num_step_tokens = num_tokens
        self._counters.num_computed_tokens += num_tokens
        self._counters.forward_time += elapsed
        self._counters.step_time += elapsed
        return deltas

    def num_unfinished(self) -> int:
        """See :class:`TokenEngine`."""
        return len(self._running) + len(self._waiting)

    def stats(self) -> EngineStats:
        """See :class:`TokenEngine`."""
        c = self._counters
        num_parked = sum(sequence.is_parked for sequence in self._drafts.values())
        everyone = (*self._running.values(), *self._waiting.values(), *self._drafts.values())
        return EngineStats(
            num_running=len(self._running) + len(self._drafts) - num_parked,
            num_waiting=len(self._waiting),
            num_parked=num_parked,
            num_queued_tokens=sum(s.num_to_compute for s in everyone if not s.is_parked),
            num_blocks=self._num_blocks,
            num_free_blocks=self._num_free,
            num_steps=c.num_steps,
            num_prompt_tokens=c.num_prompt_tokens,
            num_generated_tokens=c.num_generated_tokens,
            num_computed_tokens=c.num_computed_tokens,
            num_drafts=c.num_drafts,
            num_draft_tokens=c.num_draft_tokens,
            num_accepted_tokens=c.num_accepted_tokens,
            num_accepted_tokens_per_pos=tuple(c.accepted_per_position),
            step_time=c.step_time,
            forward_time=c.forward_time,
        )

    def check_integrity(self) -> None:
        """Raise AssertionError unless sequences and blocks agree."""
        everyone = [*self._waiting.values(), *self._running.values(), *self._drafts.values()]
        assert self._num_free + sum(sequence.num_blocks for sequence in everyone) == self._num_blocks, "blocks are lost"
        assert all(sequence.num_blocks == 0 for sequence in self._waiting.values()), "who waits holds blocks"

    def _begin(self, request: Request, *, is_draft: bool) -> SimulatedSequence:
        capacity = self._num_blocks * self._config.block_size
        vocab_size = self._simulation.vocab_size
        check_request(request, vocab_size=vocab_size, max_model_len=self.max_model_len, capacity=capacity)
        ids = [*request.prompt_token_ids, *request.emitted_token_ids]
        num_prompt, max_time = len(request.prompt_token_ids), request.params.max_time
        return SimulatedSequence(
            request_id=request.request_id,
            params=request.params,
            ids=ids,
            num_prompt=num_prompt,
            max_num_tokens=min(num_prompt + request.params.max_new_tokens, self.max_model_len),
            vocab_size=vocab_size,
            is_draft=is_draft,
            deadline=math.inf if max_time is None else self._clock() + max_time,
            num_known=len(ids),
            goal=len(ids) if is_draft else 0,
        )

    def _target(self, request_id: str) -> SimulatedSequence | None:
        return self._running.get(request_id) or self._waiting.get(request_id)

    def _schedule(self) -> list[tuple[SimulatedSequence, int]]:
        """Sequences of the next forward, each with the tokens that it gets computed."""
        for request_id, sequence in list(self._waiting.items()):
            if len(self._running) >= self._config.max_num_seqs:
                break
            if not sequence.is_held and not self._claim(sequence):
                break
            if not sequence.is_held:
                self._running[request_id] = self._waiting.pop(request_id)
        budget = self._config.max_num_batched_tokens
        batch = []
        for sequence in (*self._running.values(), *self._drafts.values()):
            if budget and not sequence.is_held and not sequence.is_parked and self._claim(sequence):
                count = min(budget, sequence.num_to_compute)
                batch.append((sequence, count))
                budget -= count
        return batch

    def _advance(self, sequence: SimulatedSequence, count: int, now: float) -> Delta | None:
        """What ``count`` computed tokens bring a sequence: nothing yet where a long prompt comes in chunks."""
        if count < sequence.num_to_compute:
            sequence.num_computed += count
            sequence.proposal = ()
            return None
        if sequence.is_draft:
            return sequence.draft(self.acceptance)
        delta = sequence.verify(now)
        self._counters.num_generated_tokens += len(delta.token_ids)
        self._counters.count_check(delta.num_drafted, delta.num_accepted)
        if delta.finish_reason is not None:
            del self._running[sequence.request_id]
            self._free(sequence)
        return delta

    def _claim(self, sequence: SimulatedSequence) -> bool:
        """Take the blocks of a sequence's whole length, those of parked drafts where others are not free."""
        missing = -(-sequence.max_num_tokens // self._config.block_size) - sequence.num_blocks
        for parked in self._drafts.values():
            if missing <= self._num_free:
                break
            if parked is not sequence and parked.is_parked:
                self._free(parked)
        if missing > self._num_free:
            return False
        sequence.num_blocks += missing
        self._num_free -= missing
        return True

    def _free(self, sequence: SimulatedSequence) -> None:
        self._num_free += sequence.num_blocks
        sequence.num_blocks = 0
        sequence.num_computed = 0
