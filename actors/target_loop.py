"""What a target does between two forwards. Free of Ray and of threads: :class:`actors.worker.Worker` drives it."""

import logging
from collections.abc import Callable

from actors.config import RouterConfig
from actors.engine.errors import RequestError
from actors.engine.protocol import TokenEngine
from actors.engine.request import Delta, FinishReason
from actors.link import Link
from actors.messages import (
    Abort,
    Crash,
    Deltas,
    Message,
    Pair,
    Proposals,
    Refuse,
    SetDraftLength,
    Start,
    Stop,
)
from actors.reporter import Reporter
from actors.rounds import Rounds
from actors.status import WorkerInfo

logger = logging.getLogger(__name__)

MAX_CRASHES = 3  # forwards that may fail one after the other before the process is given up


class TargetLoop:
    """Runs one target engine: takes requests from the router, steps, sends deltas, and lets drafts run ahead.

    Every method is called by the thread that owns the engine.
    """

    def __init__(
        self,
        engine: TokenEngine,
        link: Link,
        info: WorkerInfo,
        router_id: str,
        config: RouterConfig,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._link = link
        self._worker_id = info.worker_id
        self._router_id = router_id
        self._clock = clock
        self._rounds = Rounds(engine, link, info.worker_id, config, clock, vocab_size=info.vocab_size)
        self._num_crashes = 0
        self.reporter = Reporter(link, router_id, info, config.report_interval)
        self.is_stopped = False

    def handle(self, message: Message) -> None:
        """Take in one message."""
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
            case SetDraftLength(num_draft_tokens=num_draft_tokens):
                self._rounds.set_draft_length(num_draft_tokens)
            case Stop():
                self.is_stopped = True
                self.reporter.leave()
            case _:
                logger.warning("target %s: no use for a %s", self._worker_id, type(message).__name__)

    def run_once(self) -> None:
        """Give up what is late, run one forward if there is work, and report if it is time.

        Raises the engine's own error once :data:`MAX_CRASHES` forwards in a row have failed.
        """
        self._rounds.expire()
        if self._engine.has_work():
            self._step()
        now = self._clock()
        if now >= self.reporter.next_time:
            self.reporter.send(
                now, self._engine.stats(), self._rounds.request_ids(), draft_length=self._rounds.last_draft_length
            )

    def has_work(self) -> bool:
        """Whether :meth:`run_once` should be called again at once."""
        return self._engine.has_work()

    def next_deadline(self) -> float:
        """Return when :meth:`run_once` has to be called even though nothing has come in."""
        deadline = self._rounds.next_deadline()
        return self.reporter.next_time if deadline is None else min(deadline, self.reporter.next_time)

    def _start(self, message: Start) -> None:
        request = message.request
        if request.request_id in self._rounds:
            return  # delivered twice
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

    def _step(self) -> None:
        before = self._engine.stats().num_computed_tokens
        started = self._clock()
        try:
            deltas = self._engine.step()
        except Exception as error:
            self._crash(error)
            return
        elapsed = self._clock() - started
        self._num_crashes = 0
        if deltas:
            # Before anything else: a first token must not wait for what drafts are told.
            self._link.send(self._router_id, Deltas(worker_id=self._worker_id, items=tuple(deltas)))
        num_rows = sum(1 + delta.num_drafted for delta in deltas)
        num_computed = self._engine.stats().num_computed_tokens - before
        self._rounds.note_step(num_rows, elapsed, is_decode=num_computed <= num_rows)
        self._rounds.advance(deltas)

    def _crash(self, error: Exception) -> None:
        """Drop every sequence after a forward that failed as a whole; the router places them again, suspects alone."""
        self._num_crashes += 1
        logger.exception("target %s: a forward failed (%d in a row)", self._worker_id, self._num_crashes)
        if self._num_crashes >= MAX_CRASHES:
            raise error
        request_ids = self._rounds.request_ids()
        self._rounds.remove(request_ids)
        for request_id in request_ids:
            self._engine.abort(request_id)
        reason = f"{type(error).__name__}: {error}"
        self._link.send(self._router_id, Crash(worker_id=self._worker_id, request_ids=request_ids, error=reason))
