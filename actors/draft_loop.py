"""What a draft does between two forwards. Free of Ray and of threads: :class:`actors.worker.Worker` drives it."""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from actors.config import RouterConfig
from actors.engine.protocol import TokenEngine
from actors.engine.request import Delta, FinishReason, Request
from actors.link import Link
from actors.messages import Close, Extend, ExtendItem, Message, Proposal, Proposals, Stop
from actors.reporter import Reporter
from actors.status import WorkerInfo

logger = logging.getLogger(__name__)

IDLE_TIMEOUT = 120.0  # seconds after which a sequence that no target has touched is dropped
MAX_CRASHES = 3  # forwards that may fail one after the other before the process is given up


@dataclass
class _Goal:
    """What was last asked about a sequence: propose ``num_draft_tokens`` from ``position`` on, for ``target_id``."""

    target_id: str
    position: int
    num_draft_tokens: int
    touched_at: float


class DraftLoop:
    """Runs one draft engine: corrects its sequences to what targets confirm and proposes what follows.

    Of several questions about one sequence only the latest is answered. Every method is called by the thread that owns
    the engine.
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
        self._clock = clock
        self._goals: dict[str, _Goal] = {}  # by request id, the least recently touched first
        self._pending: dict[str, tuple[str, ExtendItem]] = {}
        self._num_crashes = 0
        self.reporter = Reporter(link, router_id, info, config.report_interval)
        self.is_stopped = False

    def handle(self, message: Message) -> None:
        """Take in one message. Extends are only noted: a newer one may yet replace them before the next forward."""
        match message:
            case Extend(target_id=target_id, items=items):
                for item in items:
                    self._pending[item.request_id] = (target_id, item)
            case Close(request_ids=request_ids):
                for request_id in request_ids:
                    self._pending.pop(request_id, None)
                    self._drop(request_id)
            case Stop():
                self.is_stopped = True
                self.reporter.leave()
            case _:
                logger.warning("draft %s: no use for a %s", self._worker_id, type(message).__name__)

    def run_once(self) -> None:
        """Apply what came in, run one forward if there is work, answer, and report if it is time.

        Raises the engine's own error once :data:`MAX_CRASHES` forwards in a row have failed.
        """
        self._apply()
        if self._engine.has_work():
            self._step()
        now = self._clock()
        if now >= self.reporter.next_time:
            self._drop_idle(now)
            self.reporter.send(now, self._engine.stats())

    def has_work(self) -> bool:
        """Whether :meth:`run_once` should be called again at once."""
        return bool(self._pending) or self._engine.has_work()

    def next_deadline(self) -> float:
        """Return when :meth:`run_once` has to be called even though nothing has come in."""
        return self.reporter.next_time

    def _apply(self) -> None:
        now = self._clock()
        unknown: defaultdict[str, list[str]] = defaultdict(list)
        unserved: defaultdict[str, list[Proposal]] = defaultdict(list)
        for request_id, (target_id, item) in self._pending.items():
            try:
                self._extend(item)
            except KeyError:
                self._drop(request_id)
                unknown[target_id].append(request_id)
                continue
            except Exception as error:
                logger.warning("draft %s cannot serve %s: %s", self._worker_id, request_id, error)
                self._drop(request_id)
                position = item.start + len(item.token_ids)
                unserved[target_id].append(Proposal(request_id=request_id, start=position, token_ids=()))
                continue
            self._goals.pop(request_id, None)
            self._goals[request_id] = _Goal(
                target_id, item.start + len(item.token_ids), item.num_draft_tokens, touched_at=now
            )
        self._pending.clear()
        for target_id in unknown.keys() | unserved.keys():
            self._answer(target_id, unserved[target_id], unknown[target_id])

    def _extend(self, item: ExtendItem) -> None:
        """Bring one sequence to what its target confirmed and set it running. Raises KeyError where it is unknown."""
        if item.params is not None and item.request_id not in self._goals:
            prompt, emitted = item.token_ids[: item.num_prompt_tokens], item.token_ids[item.num_prompt_tokens :]
            self._engine.open(
                Request(
                    request_id=item.request_id,
                    prompt_token_ids=prompt,
                    params=item.params,
                    emitted_token_ids=emitted,
                )
            )
            self._engine.extend(item.request_id, len(item.token_ids), (), item.num_draft_tokens)
        else:
            self._engine.extend(item.request_id, item.start, item.token_ids, item.num_draft_tokens)

    def _step(self) -> None:
        try:
            deltas = self._engine.step()
        except Exception as error:
            self._crash(error)
            return
        self._num_crashes = 0
        answers: defaultdict[str, list[Proposal]] = defaultdict(list)
        for delta in deltas:
            goal = self._goals.get(delta.request_id)
            if goal is not None:
                answers[goal.target_id].append(self._proposal(goal, delta))
        for target_id, items in answers.items():
            self._answer(target_id, items, ())

    def _proposal(self, goal: _Goal, delta: Delta) -> Proposal:
        token_ids = delta.token_ids[: goal.num_draft_tokens]
        if delta.finish_reason is FinishReason.ERROR:
            logger.warning("draft %s cannot serve %s: %s", self._worker_id, delta.request_id, delta.error)
            self._drop(delta.request_id)
            token_ids = ()
        return Proposal(request_id=delta.request_id, start=goal.position, token_ids=token_ids)

    def _answer(self, target_id: str, items: list[Proposal], unknown: list[str] | tuple[str, ...]) -> None:
        self._link.send(target_id, Proposals(draft_id=self._worker_id, items=tuple(items), unknown=tuple(unknown)))

    def _crash(self, error: Exception) -> None:
        """Forget every sequence after a forward that failed as a whole; targets decode on and tell us anew."""
        self._num_crashes += 1
        logger.exception("draft %s: a forward failed (%d in a row)", self._worker_id, self._num_crashes)
        if self._num_crashes >= MAX_CRASHES:
            raise error
        for request_id in list(self._goals):
            self._drop(request_id)

    def _drop(self, request_id: str) -> None:
        self._goals.pop(request_id, None)
        self._engine.abort(request_id)

    def _drop_idle(self, now: float) -> None:
        for request_id, goal in list(self._goals.items()):
            if now - goal.touched_at < IDLE_TIMEOUT:
                break
            self._drop(request_id)
