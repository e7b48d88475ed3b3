"""What a target does between two forwards. Free of Ray and of threads: :class:`actors.worker.Worker` drives it."""

import logging
from collections.abc import Callable

from actors.config import RouterConfig
from actors.engine.errors import OverloadedError, RequestError
from actors.engine.protocol import TokenEngine
from actors.engine.request import Delta, FinishReason, Request
from actors.link import Link
from actors.messages import (
    Abort,
    Crash,
    Deltas,
    Drain,
    Greet,
    Message,
    Pair,
    Proposals,
    Refuse,
    SetDraftLength,
    Start,
    Stop,
)
from actors.model_loop import ModelLoop
from actors.rounds import Rounds
from actors.status import WorkerInfo
from actors.stopwatch import Stopwatch

logger = logging.getLogger(__name__)


class TargetLoop(ModelLoop):
    """Runs one target engine: takes requests from the router, steps, sends deltas, and lets drafts run ahead."""

    def __init__(
        self,
        engine: TokenEngine,
        link: Link,
        info: WorkerInfo,
        router_id: str,
        config: RouterConfig,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(engine, link, info, router_id, config, clock)
        self._rounds = Rounds(engine, link, info.worker_id, config, clock, vocab_size=info.vocab_size)
        self._draft_wait = Stopwatch()
        self._deltas: list[Delta] = []  # of the last step: drafts are told once what they have sent meanwhile is known

    def handle(self, message: Message) -> None:
        """Take in one message."""
        if not isinstance(message, Proposals):
            self._enter()
        match message:
            case Proposals():
                self._rounds.receive(message)
            case Start():
                self._start(message)
            case Abort(request_id=request_id):
                self._rounds.remove((request_id,))
                self._engine.abort(request_id)
            case Pair(request_ids=request_ids, draft_id=draft_id):
                self._rounds.pair(request_ids, draft_id)
            case Greet():
                self.reporter.next_time = self._clock()
            case SetDraftLength(num_draft_tokens=num_draft_tokens):
                self._rounds.set_draft_length(num_draft_tokens)
            case Drain():
                self.reporter.drain()
            case Stop():
                self.stop()
            case _:
                logger.warning("target %s: no use for a %s", self._worker_id, type(message).__name__)

    def run_once(self) -> None:
        """Give up what is late, report if it is time, and run one forward if there is work.

        Raises the engine's own error once :data:`MAX_CRASHES` forwards in a row have failed.
        """
        self._enter()
        self._rounds.expire()
        can_run = self.has_work()
        now = self._clock()
        self._draft_wait.note(now, is_waiting=not can_run and bool(self._rounds.request_ids()))
        if now >= self.reporter.next_time:
            self.reporter.send(
                now,
                self._engine.stats(),
                self._rounds.request_ids(),
                draft_length=self._rounds.last_draft_length,
                draft_wait_time=self._draft_wait.total,
                drafting=self._rounds.stats(),
                step_times=self._step_times.entries(),
            )
            if self.reporter.is_draining and not self._rounds.request_ids():
                self.stop()
        if can_run:
            self._step()

    def has_work(self) -> bool:
        """Whether :meth:`run_once` should be called again at once."""
        return bool(self._deltas) or (self._engine.has_work() and self._rounds.is_ready())

    def next_deadline(self) -> float:
        """Return when :meth:`run_once` has to be called even though nothing has come in."""
        deadline = self._rounds.next_deadline()
        return self.reporter.next_time if deadline is None else min(deadline, self.reporter.next_time)

    def _start(self, message: Start) -> None:
        request = message.request
        if request.request_id in self._rounds:
            if self._resend(request):
                if message.draft_id:
                    self._rounds.pair((request.request_id,), message.draft_id)
                return
            self.handle(Abort(request_id=request.request_id))
        try:
            self._engine.add(request)
        except RequestError as error:
            self._link.send(
                self._router_id,
                Refuse(
                    request_id=request.request_id,
                    error=str(error),
                    field=error.field,
                    limit=error.limit,
                    is_overload=isinstance(error, OverloadedError),
                    worker_id=self._worker_id,
                ),
            )
        except Exception as error:
            logger.exception("target %s could not take request %s", self._worker_id, request.request_id)
            delta = Delta(
                request_id=request.request_id,
                start=len(request.emitted_token_ids),
                finish_reason=FinishReason.ERROR,
                error=f"{type(error).__name__}: {error}",
            )
            self._link.send(self._router_id, Deltas(worker_id=self._worker_id, items=(delta,)))
        else:
            self._rounds.add(request, message.draft_id)
            self._rounds[request.request_id].wait_before = self._draft_wait.total

    def _resend(self, request: Request) -> bool:
        """Send again what a running sequence has emitted behind what the router knows: it has lost some, or is new.

        Returns whether that is so; if not, the sequence has to be run again from what the router knows.
        """
        emitted = self._rounds[request.request_id].emitted_ids
        num_known = len(request.emitted_token_ids)
        if emitted[:num_known] != request.emitted_token_ids:
            return False
        missing = emitted[num_known:]
        if missing and (request.params.logprobs is not None or request.params.prompt_logprobs is not None):
            return False  # they are not kept
        if missing:
            delta = Delta(request_id=request.request_id, start=num_known, token_ids=missing)
            self._link.send(self._router_id, Deltas(worker_id=self._worker_id, items=(delta,)))
        return True

    def _enter(self) -> None:
        """Tell drafts what the last step has confirmed."""
        deltas, self._deltas = self._deltas, []
        if deltas:
            self._rounds.advance(deltas)

    def _step(self) -> None:
        self._rounds.attach()
        started = self._clock()
        try:
            deltas = self._engine.step()
        except Exception as error:
            self._crash(error)
            return
        elapsed = self._clock() - started
        self._num_crashes = 0
        self._step_times.add(self._engine.num_step_tokens, elapsed)
        deltas = [delta if delta.finish_reason is None else self._sum_up(delta) for delta in deltas]
        if deltas:
            # Before anything else: a first token must not wait for what drafts are told.
            self._link.send(self._router_id, Deltas(worker_id=self._worker_id, items=tuple(deltas)))
        num_rows = sum(1 + delta.num_drafted for delta in deltas)
        self._rounds.note_step(num_rows, elapsed, is_decode=self._engine.num_step_tokens <= num_rows)
        self._deltas = deltas

    def _sum_up(self, delta: Delta) -> Delta:
        """Add to a sequence's last delta what drafting did for it."""
        if delta.request_id not in self._rounds:
            return delta
        return self._rounds[delta.request_id].sum_up(delta, self._draft_wait.total)

    def _crash(self, error: Exception) -> None:
        """Drop every sequence after a forward that failed as a whole; the router places them again, suspects alone."""
        self._count_crash(error)
        request_ids = self._rounds.request_ids()
        self._rounds.remove(request_ids)
        for request_id in request_ids:
            self._engine.abort(request_id)
        reason = f"{type(error).__name__}: {error}"
        self._link.send(self._router_id, Crash(worker_id=self._worker_id, request_ids=request_ids, error=reason))
