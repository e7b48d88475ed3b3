"""The engine: many sequences, one model, one forward a step.

It knows token ids, not text, actors or clients. A step reads: schedule, forward, sample, advance.
"""

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch

from actors.engine.admission import check_request
from actors.engine.blocks import BlockPool
from actors.engine.config import EngineConfig
from actors.engine.counters import Counters
from actors.engine.errors import OverloadedError, RequestError
from actors.engine.loaded import LoadedModel
from actors.engine.request import Delta, EngineStats, FinishReason, Request, TokenLogprobs
from actors.engine.runner import build_runner
from actors.engine.sampler import SamplerState, sample
from actors.engine.scheduler import Scheduled, Scheduler
from actors.engine.sequence import Sequence, Status
from actors.engine.stopping import StopState
from actors.engine.validation import check_params
from actors.engine.verify import accept, sample_rows

logger = logging.getLogger(__name__)


class Engine:
    """Fulfils :class:`actors.engine.protocol.TokenEngine` with a loaded model. One thread owns it.

    Args:
        loaded: the model on its devices.
        config: bounds; ``num_blocks`` falls back to what loading planned.
        clock: seconds, for ``max_time``.

    Attributes:
        max_model_len: longest sequence, prompt included, that is served.
        vocab_size: width of the logits.
    """

    def __init__(
        self, loaded: LoadedModel, config: EngineConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        num_blocks = config.num_blocks or loaded.num_blocks
        self._loaded = loaded
        self._config = config
        self._clock = clock
        self._capacity = num_blocks * config.block_size
        contexts = (config.max_model_len, getattr(loaded.config, "max_position_embeddings", None))
        self.max_model_len = min([length for length in contexts if length] or [self._capacity])
        self.vocab_size = loaded.vocab_size
        self._runner = build_runner(loaded, config, num_blocks)
        self._pool = BlockPool(num_blocks, config.block_size, prefix_cache=config.prefix_cache)
        self._scheduler = Scheduler(config, self._pool, is_chunkable=self._runner.is_chunkable)
        self._sequences: dict[str, Sequence] = {}
        self._ended: list[Delta] = []  # deltas of sequences that end without a forward
        self._counters = Counters()

    def add(self, request: Request) -> None:
        """See :class:`TokenEngine`. Raises OverloadedError where the queue is full."""
        if request.request_id in self._sequences:
            raise RequestError(f"request_id: {request.request_id} is already running", field="request_id")
        if self._scheduler.num_waiting >= self._config.max_num_waiting:
            raise OverloadedError(
                f"the queue is full: {self._config.max_num_waiting} requests wait",
                limit=str(self._config.max_num_waiting),
            )
        sequence = self._begin(request, is_draft=False)
        self._counters.num_prompt_tokens += sequence.num_prompt_tokens
        if request.emitted_token_ids:
            reason = sequence.stopping.check(sequence.token_ids, sequence.num_tokens, self._clock())
            if reason is not None:  # all was emitted already; only the end had not been told
                start = sequence.num_emitted_tokens
                self._ended.append(Delta(request_id=request.request_id, start=start, finish_reason=reason))
                return
        self._sequences[request.request_id] = sequence
        self._scheduler.add(sequence)

    def propose(self, request_id: str, start: int, token_ids: Seq[int]) -> None:
        """See :class:`TokenEngine`."""
        sequence = self._sequences.get(request_id)
        if sequence is None or sequence.is_draft:
            return
        sequence.is_held = False
        known = sequence.token_ids[start:]
        if start > sequence.num_tokens or known != list(token_ids[: len(known)]) or not self._runner.is_chunkable:
            return
        room = min(sequence.max_num_tokens, self.max_model_len) - sequence.num_tokens - 1
        drafts = list(token_ids[len(known) :][: max(0, room)])
        foreign = next((i for i, token in enumerate(drafts) if not 0 <= token < self.vocab_size), len(drafts))
        sequence.drafts = drafts[:foreign]

    def hold(self, request_id: str) -> None:
        """See :class:`TokenEngine`."""
        if request_id in self._sequences:
            self._sequences[request_id].is_held = True

    def release(self, request_id: str) -> None:
        """See :class:`TokenEngine`."""
        if request_id in self._sequences:
            self._sequences[request_id].is_held = False

    def abort(self, request_id: str) -> None:
        """See :class:`TokenEngine`."""
        self._take_back(request_id)
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            self._scheduler.remove(sequence)
            self._forget_dropped()

    def open(self, request: Request) -> None:
        """See :class:`TokenEngine`."""
        self.abort(request.request_id)
        sequence = self._begin(request, is_draft=True)
        self._sequences[request.request_id] = sequence
        self._scheduler.add(sequence)

    def extend(self, request_id: str, start: int, token_ids: Seq[int], num_new_tokens: int) -> None:
        """See :class:`TokenEngine`."""
        sequence = self._sequences[request_id]
        if not sequence.is_draft or start > sequence.num_final_tokens:
            raise KeyError(request_id)
        before = sequence.token_ids
        after = before[:start] + list(token_ids)
        num_common = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
        if num_common is None:
            num_common = min(len(before), len(after))
        sequence.token_ids = after
        sequence.num_final_tokens = len(after)
        self._take_back(request_id)
        self._scheduler.rewind(sequence, min(num_common, len(after) - 1))
        self._forget_dropped()
        sequence.goal = min(len(after) + num_new_tokens, sequence.max_num_tokens, self.max_model_len, self._capacity)
        if sequence.num_tokens < sequence.goal:
            self._scheduler.wake(sequence)
        else:
            if sequence.status is not Status.PARKED:
                self._scheduler.park(sequence)
            self._ended.append(Delta(request_id=request_id, start=sequence.num_emitted_tokens))

    def has_work(self) -> bool:
        """See :class:`TokenEngine`."""
        return bool(self._ended) or self._scheduler.has_work()

    def num_unfinished(self) -> int:
        """See :class:`TokenEngine`."""
        return sum(not sequence.is_draft for sequence in self._sequences.values())

    def step(self) -> list[Delta]:
        """See :class:`TokenEngine`."""
        started = time.perf_counter()
        if self._config.num_threads not in (None, torch.get_num_threads()):
            torch.set_num_threads(self._config.num_threads)  # it holds for the calling thread alone
        deltas, self._ended = self._ended, []
        plan = self._scheduler.schedule()
        self._forget_dropped()
        if not plan:
            return deltas
        plan, logits, failed = self._forward(plan)
        deltas += failed
        forwarded = time.perf_counter()
        sampled = sample(logits, [row for item in plan for row in sample_rows(item)])
        row = 0
        for item in plan:
            rows = range(row, row + item.span.num_logits)
            # Rows behind a failing one may rest on a wrong draft; the sequence fails only if it comes to that row.
            sound = rows[: next((n for n, i in enumerate(rows) if i in sampled.errors), len(rows))]
            if rows and not sound:
                deltas.append(self._fail(item.sequence, sampled.errors[row]))
            else:
                delta = self._advance(item, [sampled.token_ids[i] for i in sound], [sampled.logprobs[i] for i in sound])
                deltas += [delta] if delta is not None else []
            row += item.span.num_logits
        self._counters.num_steps += 1
        self._counters.num_computed_tokens += sum(len(item.span.token_ids) for item in plan)
        self._counters.forward_time += forwarded - started
        self._counters.step_time += time.perf_counter() - started
        return deltas

    def stats(self) -> EngineStats:
        """See :class:`TokenEngine`."""
        c = self._counters
        return EngineStats(
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
            num_parked=self._scheduler.num_parked,
            num_blocks=self._pool.num_blocks,
            num_free_blocks=self._pool.num_free,
            num_steps=c.num_steps,
            num_prompt_tokens=c.num_prompt_tokens,
            num_generated_tokens=c.num_generated_tokens,
            num_computed_tokens=c.num_computed_tokens,
            num_prefix_hit_tokens=self._scheduler.num_prefix_hit_tokens,
            num_preemptions=self._scheduler.num_preemptions,
            num_drafts=c.num_drafts,
            num_draft_tokens=c.num_draft_tokens,
            num_accepted_tokens=c.num_accepted_tokens,
            num_accepted_tokens_per_pos=tuple(c.accepted_per_position),
            step_time=c.step_time,
            forward_time=c.forward_time,
        )

    def check_integrity(self) -> None:
        """Raise AssertionError unless sequences, queues and blocks agree."""
        self._scheduler.check_integrity()
        assert {s.request_id for s in self._scheduler.sequences()} == set(self._sequences), "a sequence is lost"

    def _begin(self, request: Request, *, is_draft: bool) -> Sequence:
        """Check a request and make its sequence."""
        params = request.params
        check_params(params, self.vocab_size, has_tokenizer=self._loaded.tokenizer is not None)
        check_request(request, vocab_size=self.vocab_size, max_model_len=self.max_model_len, capacity=self._capacity)
        stopping = StopState.build(
            params, len(request.prompt_token_ids), self.max_model_len, self._loaded.tokenizer, started=self._clock()
        )
        sampler = SamplerState.build(params, len(request.prompt_token_ids), self._loaded, request.prompt_token_ids)
        return Sequence(request, sampler, stopping, is_draft=is_draft)

    def _forward(self, plan: list[Scheduled]) -> tuple[list[Scheduled], torch.Tensor, list[Delta]]:
        """Logits of the plan; where the whole fails, each part alone, so that one sequence's failure is its own."""
        try:
            return plan, self._runner.forward([item.span for item in plan]), []
        except Exception:
            logger.exception("a forward over %d sequences failed; running them one by one", len(plan))
        survivors, logits, failed = [], [torch.empty(0, self.vocab_size)], []
        for item in plan:
            try:
                logits.append(self._runner.forward([item.span]).to("cpu", torch.float32))
                survivors.append(item)
            except Exception as error:
                failed.append(self._fail(item.sequence, f"{type(error).__name__}: {error}"))
        return survivors, torch.cat(logits), failed

    def _advance(self, item: Scheduled, token_ids: list[int], logprobs: list[TokenLogprobs | None]) -> Delta | None:
        """Append what was sampled for one sequence, up to the first drafted token that differs or the end."""
        sequence, span = item.sequence, item.span
        if span.num_logits == 0:
            sequence.num_computed_tokens = span.end
            self._scheduler.publish(sequence)
            return None
        first, num_drafted = sequence.num_tokens, len(sequence.drafts)
        num_accepted, reason = accept(sequence, token_ids, self._clock())
        sequence.num_computed_tokens = min(first + num_accepted, sequence.num_tokens - 1)
        num_new = sequence.num_tokens - first
        self._counters.num_generated_tokens += num_new
        if sequence.is_draft:
            return self._park_at_goal(sequence, reason)
        sequence.num_final_tokens = sequence.num_tokens
        self._scheduler.publish(sequence)
        self._counters.count_check(num_drafted, num_accepted)
        if reason is not None:
            self._end(sequence)
        return Delta(
            request_id=sequence.request_id,
            start=first - sequence.num_prompt_tokens,
            token_ids=tuple(sequence.token_ids[first:]),
            num_drafted=num_drafted,
            num_accepted=num_accepted,
            logprobs=_asked(logprobs[:num_new]),
            finish_reason=reason,
        )

    def _park_at_goal(self, sequence: Sequence, reason: FinishReason | None) -> Delta | None:
        self._scheduler.publish(sequence)
        assert sequence.goal is not None
        if sequence.num_tokens < sequence.goal and reason is None:
            return None
        self._scheduler.park(sequence)
        return Delta(
            request_id=sequence.request_id,
            start=sequence.num_final_tokens - sequence.num_prompt_tokens,
            token_ids=tuple(sequence.token_ids[sequence.num_final_tokens :]),
        )

    def _end(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request_id]
        self._scheduler.remove(sequence)
        self._forget_dropped()

    def _fail(self, sequence: Sequence, error: str) -> Delta:
        self._end(sequence)
        return Delta(
            request_id=sequence.request_id,
            start=sequence.num_emitted_tokens,
            finish_reason=FinishReason.ERROR,
            error=error,
        )

    def _take_back(self, request_id: str) -> None:
        """Drop what was about to be said of a sequence."""
        self._ended = [delta for delta in self._ended if delta.request_id != request_id]

    def _forget_dropped(self) -> None:
        for key in self._scheduler.dropped_keys:
            self._runner.forget(key)
        self._scheduler.dropped_keys.clear()


def _asked(logprobs: list[TokenLogprobs | None]) -> tuple[TokenLogprobs, ...] | None:
    given = tuple(entry for entry in logprobs if entry is not None)
    return given or None
