"""The engine: many sequences, one model, one forward a step.

It knows token ids, not text, actors or clients. A step reads: schedule, forward, sample, advance.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace

import torch

from actors.engine.beam_search import BeamSearch
from actors.engine.blocks import BlockPool
from actors.engine.choice import NoiseKeys
from actors.engine.config import EngineConfig
from actors.engine.counters import Counters
from actors.engine.deltas import asked_logprobs, drafted, failed
from actors.engine.early_exit import EarlyExit
from actors.engine.engine_stats import engine_stats
from actors.engine.errors import GenerationError, OverloadedError, RequestError
from actors.engine.grammar_queue import GrammarQueue
from actors.engine.intake import Intake
from actors.engine.isolation import forward
from actors.engine.loaded import LoadedModel
from actors.engine.native_generation import NativeModel
from actors.engine.processor_registry import ProcessorRegistry
from actors.engine.prompt_logprobs import max_num_prompt_logits, take_prompt_logits
from actors.engine.request import Delta, EngineStats, Request, TokenLogprobs
from actors.engine.runner import build_runner, pass_on_keys
from actors.engine.sampler import sample
from actors.engine.scheduled import Scheduled
from actors.engine.scheduler import Scheduler
from actors.engine.sequence import Sequence, Status
from actors.engine.verify import accept, is_over, is_unsure, num_decided, sample_rows


class Engine:
    """Fulfils :class:`actors.engine.protocol.TokenEngine` with a loaded model. One thread owns it.

    Args:
        loaded: the model on its devices.
        config: bounds; ``num_blocks`` falls back to what loading planned.
        clock: seconds, for ``max_time``.
        registry: logits processors and stopping criteria that requests may name; None for none.

    Attributes:
        max_model_len: longest sequence, prompt included, that is served.
        vocab_size: width of the logits.
        native: the same weights, as transformers' own ``generate`` runs them.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        config: EngineConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        registry: ProcessorRegistry | None = None,
    ) -> None:
        num_blocks = config.num_blocks or loaded.num_blocks
        self._config = config
        self._clock = clock
        self._capacity = num_blocks * config.block_size
        contexts = (config.max_model_len, getattr(loaded.config, "max_position_embeddings", None))
        self.max_model_len = min([length for length in contexts if length] or [self._capacity])
        self.vocab_size = loaded.vocab_size
        self.native = NativeModel(loaded.model, loaded.model.config._attn_implementation, loaded.tokenizer, registry)
        self._runner = build_runner(loaded, config, num_blocks)
        self._pool = BlockPool(num_blocks, config.block_size, prefix_cache=config.prefix_cache)
        self._scheduler = Scheduler(
            config,
            self._pool,
            is_chunkable=self._runner.is_chunkable,
            max_num_prompt_logits=max_num_prompt_logits(self.vocab_size),
        )
        self._intake = Intake(loaded, config, self.max_model_len, num_blocks, clock, registry)
        self._compiling = GrammarQueue()
        self._sequences: dict[str, Sequence] = {}
        self._noise: NoiseKeys | None = None
        self._early_exit = EarlyExit(loaded, self._runner)
        self._ended: list[Delta] = []  # deltas of sequences that end without a forward
        self._counters = Counters()
        self._search = BeamSearch(self._scheduler, self._counters, clock)
        self.num_step_tokens = 0

    def add(self, request: Request) -> None:
        """See :class:`TokenEngine`. Raises OverloadedError where the queue is full."""
        if request.request_id in self._sequences or request.request_id in self._search.groups:
            raise RequestError(f"request_id: {request.request_id} is already running", field="request_id")
        if self._scheduler.num_waiting >= (limit := self._config.max_num_waiting):
            raise OverloadedError(f"the queue is full: {limit} requests wait", limit=str(limit))
        if request.params.has_beams:
            self._search.add(self._intake.begin_search(request))
            self._counters.num_prompt_tokens += len(request.prompt_token_ids)
            return
        sequence = self._intake.begin(request, is_draft=False)
        self._early_exit.add(sequence)
        self._counters.num_prompt_tokens += sequence.num_prompt_tokens
        self._sequences[request.request_id] = sequence
        self._scheduler.add(sequence)
        if not sequence.is_compiled:
            self._compiling.add(sequence)
        elif request.emitted_token_ids:
            self._end_if_told(sequence)

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
            self._compiling.remove(sequence)
            self._scheduler.remove(sequence)
        self._search.end(request_id)
        pass_on_keys(self._scheduler, self._runner)

    def open(self, request: Request) -> None:
        """See :class:`TokenEngine`."""
        if request.params.has_beams:
            raise RequestError("num_beams: nothing is drafted for a search", field="num_beams")
        self.abort(request.request_id)
        sequence = self._intake.begin(request, is_draft=True)
        self._sequences[request.request_id] = sequence
        self._scheduler.add(sequence)

    def extend(self, request_id: str, start: int, token_ids: Seq[int], num_new_tokens: int, num_ahead: int = 0) -> None:
        """See :class:`TokenEngine`."""
        sequence = self._sequences[request_id]
        if not sequence.is_draft or start > sequence.num_final_tokens:
            raise KeyError(request_id)
        before = sequence.token_ids
        after = before[:start] + list(token_ids)
        num_common = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
        if num_common is None:
            num_common = min(len(before), len(after))
        # What it wrote itself stands while it agrees; ids that were once confirmed and are no longer are not its own.
        if num_common < len(after) or len(after) < sequence.num_final_tokens:
            sequence.token_ids = after
            self._scheduler.rewind(sequence, min(num_common, len(after) - 1))
            pass_on_keys(self._scheduler, self._runner)
        sequence.num_final_tokens = len(after)
        self._take_back(request_id)
        limit = min(sequence.max_num_tokens, self.max_model_len, self._capacity)
        sequence.num_to_answer = min(len(after) + num_new_tokens, limit)
        sequence.goal = min(len(after) + num_new_tokens + num_ahead, limit)
        if num_ahead and self._runner.is_chunkable:
            known = (sequence.second_choices or {}).items()
            sequence.second_choices = {at: token for at, token in known if len(after) <= at < sequence.num_tokens}
        if sequence.num_tokens < sequence.goal and not self._has_drafted_its_end(sequence):
            self._scheduler.wake(sequence)
        else:
            if sequence.status is not Status.PARKED:
                self._scheduler.park(sequence)
            self._ended.append(drafted(sequence))

    def fork(self, request_id: str, fork_id: str, position: int, num_new_tokens: int) -> int | None:
        """See :class:`TokenEngine`."""
        source = self._sequences.get(request_id)
        choice = source.second_choices.get(position) if source is not None and source.second_choices else None
        if source is None or choice is None or source.grammar is not None:
            return None
        fork = source.fork(fork_id, position, choice)
        limit = min(fork.max_num_tokens, self.max_model_len, self._capacity)
        if fork.num_tokens >= limit or is_over(fork, self._clock()):
            return None
        fork.num_final_tokens = source.num_final_tokens
        fork.num_to_answer = fork.num_tokens
        fork.goal = min(fork.num_tokens + num_new_tokens, limit)
        fork.second_choices = {}
        self.abort(fork_id)
        self._sequences[fork_id] = fork
        self._scheduler.fork(source, fork)
        return choice

    def couple(self, noise_ids: Seq[int]) -> None:
        """See :class:`actors.translated_engine.Noise`."""
        self._noise = NoiseKeys.of(noise_ids, self.vocab_size)

    def shift_noise(self, request_id: str, num_positions: int) -> None:
        """See :class:`actors.translated_engine.Noise`."""
        if self._noise is not None and request_id in self._sequences:
            self._sequences[request_id].sampler.noise = replace(self._noise, shift=num_positions)

    def has_work(self) -> bool:
        """See :class:`TokenEngine`."""
        return bool(self._ended) or len(self._compiling) > 0 or self._scheduler.has_work()

    def num_unfinished(self) -> int:
        """See :class:`TokenEngine`."""
        return sum(not sequence.is_draft for sequence in self._sequences.values()) + len(self._search.groups)

    def step(self) -> list[Delta]:
        """See :class:`TokenEngine`."""
        self._take_compiled()
        started = time.perf_counter()
        if self._config.num_threads not in (None, torch.get_num_threads()):
            torch.set_num_threads(self._config.num_threads)  # it holds for the calling thread alone
        deltas, self._ended = self._ended, []
        self.num_step_tokens = 0
        self._early_exit.make_room(self._sequences, self.max_model_len)
        plan = self._early_exit.fill(self._scheduler.schedule(has_beams=self._search.share.is_due))
        pass_on_keys(self._scheduler, self._runner)
        if not plan:
            return deltas
        plan, logits, failures = forward(self._runner, plan, self.vocab_size)
        deltas += [self._search.fail(i.group, e) if i.group else self._fail(i.sequence, e) for i, e in failures]
        forwarded = time.perf_counter()
        beams = [item for item in plan if item.group is not None]
        plan = plan[: len(plan) - len(beams)]
        num_rows = sum(item.span.num_logits for item in plan)
        deltas += self._search.advance(beams, logits[num_rows:])
        logits = take_prompt_logits(logits[:num_rows], plan)
        sampled = sample(logits, [row for item in plan for row in sample_rows(item)])
        row = 0
        for item in plan:
            rows = range(row, row + item.num_samples)
            # Rows behind a failing one may rest on a wrong draft; the sequence fails only if it comes to that row.
            sound = rows[: next((n for n, i in enumerate(rows) if i in sampled.errors), len(rows))]
            if rows and not sound:
                deltas.append(self._fail(item.sequence, sampled.errors[row]))
            else:
                if item.sequence.second_choices is not None and row in sampled.second_choices:
                    item.sequence.second_choices[item.sequence.num_tokens] = sampled.second_choices[row]
                delta = self._advance(item, [sampled.token_ids[i] for i in sound], [sampled.logprobs[i] for i in sound])
                deltas += [delta] if delta is not None else []
            row += item.num_samples
        pass_on_keys(self._scheduler, self._runner)
        elapsed = time.perf_counter() - started
        self._search.share.note(elapsed, has_others=bool(plan), has_beams=bool(beams))
        self.num_step_tokens = sum(len(item.span.token_ids) for item in (*plan, *beams))
        self._counters.count_step(self.num_step_tokens, forwarded - started, elapsed)
        return deltas

    def stats(self) -> EngineStats:
        """See :class:`TokenEngine`."""
        return engine_stats(self._counters, self._scheduler, self._pool)

    def check_integrity(self) -> None:
        """Raise AssertionError unless sequences, queues and blocks agree."""
        self._scheduler.check_integrity()
        known = {*self._sequences, *self._search.groups}
        assert {unit.request_id for unit in self._scheduler.units()} == known, "a sequence is lost"

    def _take_compiled(self) -> None:
        """Let sequences run whose grammar has been compiled, and end those whose grammar cannot be."""
        for sequence in self._compiling.take(is_idle=not self._ended and not self._scheduler.has_work()):
            fault = sequence.grammar.grammar.fault() if sequence.grammar is not None else None
            if fault is not None:
                self._ended.append(self._fail(sequence, str(fault)))
            elif sequence.num_emitted_tokens:
                self._end_if_told(sequence)

    def _end_if_told(self, sequence: Sequence) -> None:
        """End a continued sequence of which all was emitted already, so that only its end had not been told."""
        try:
            reason = sequence.stopping.check(sequence.token_ids, sequence.num_tokens, self._clock())
        except GenerationError as error:
            self._ended.append(self._fail(sequence, str(error)))
            return
        if reason is not None:
            self._end(sequence)
            start = sequence.num_emitted_tokens
            self._ended.append(Delta(request_id=sequence.request_id, start=start, finish_reason=reason))

    def _advance(self, item: Scheduled, token_ids: list[int], logprobs: list[TokenLogprobs | None]) -> Delta | None:
        """Append what was sampled for one sequence, up to the first drafted token that differs or the end."""
        sequence, span = item.sequence, item.span
        if item.num_samples == 0:
            sequence.num_computed_tokens = span.end
            self._scheduler.publish(sequence)
            return None
        first, num_drafts = sequence.num_tokens, len(sequence.drafts)
        try:
            num_accepted, reason = accept(sequence, token_ids, self._clock())
        except GenerationError as error:
            return self._fail(sequence, str(error))
        sequence.num_computed_tokens = min(first + num_accepted, sequence.num_tokens - 1)
        num_new = sequence.num_tokens - first
        num_drafted = num_decided(num_drafts, num_accepted, num_new)
        self._counters.num_generated_tokens += num_new
        if sequence.is_draft:
            return self._park_at_goal(sequence, is_over=reason is not None or is_unsure(sequence.params, logprobs))
        sequence.num_final_tokens = sequence.num_tokens
        self._scheduler.publish(sequence)
        self._counters.count_check(num_drafted, num_accepted)
        self._early_exit.judge(sequence, num_drafts, num_accepted)
        if reason is not None:
            self._end(sequence)
        return Delta(
            request_id=sequence.request_id,
            start=first - sequence.num_prompt_tokens,
            token_ids=tuple(sequence.token_ids[first:]),
            num_drafted=num_drafted,
            num_accepted=num_accepted,
            logprobs=asked_logprobs(logprobs[:num_new]),
            prompt_logprobs=sequence.take_prompt_logprobs(),
            finish_reason=reason,
        )

    def _park_at_goal(self, sequence: Sequence, *, is_over: bool) -> Delta | None:
        self._scheduler.publish(sequence)
        assert sequence.goal is not None
        if sequence.num_tokens >= sequence.goal or is_over:
            self._scheduler.park(sequence)
        elif sequence.num_tokens < sequence.num_to_answer:
            return None
        return drafted(sequence)

    def _has_drafted_its_end(self, sequence: Sequence) -> bool:
        """Whether what a draft sequence wrote behind the confirmed ids ends it."""
        return sequence.num_tokens > sequence.num_final_tokens and is_over(sequence, self._clock())

    def _end(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request_id]
        self._scheduler.remove(sequence)
        pass_on_keys(self._scheduler, self._runner)

    def _fail(self, sequence: Sequence, error: str) -> Delta:
        self._end(sequence)
        return failed(sequence, error)

    def _take_back(self, request_id: str) -> None:
        """Drop what was about to be said of a sequence."""
        self._ended = [delta for delta in self._ended if delta.request_id != request_id]
