"""What a draft does between two forwards. Free of Ray and of threads: :class:`actors.worker.Worker` drives it."""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from actors.config import RouterConfig
from actors.draft_tree import DraftTree, request_of
from actors.draft_view import Mean
from actors.engine.errors import RequestError
from actors.engine.protocol import TokenEngine
from actors.engine.request import Delta, FinishReason, Request
from actors.link import Link
from actors.messages import Close, Drain, Extend, ExtendItem, Message, Proposal, Proposals, Stop
from actors.model_loop import ModelLoop
from actors.status import DraftingStats, WorkerInfo
from actors.step_curve import StepCurve
from actors.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

IDLE_TIMEOUT = 120.0  # seconds after which a sequence that no target has touched is dropped
MIN_PIECE_INTERVAL = 0.002  # seconds between two messages that only tell a target what was written ahead
STEP_PRIOR = (0.002, 0.00002)  # a first guess of a forward's seconds by its rows, hopeful about many
MAX_BRANCH_COST = 1.1  # how much longer forwards may take for the sake of branches
MAX_CATCH_UP = 4  # tokens a sequence that a forward may compute and still say how long drafting takes


@dataclass
class _Goal:
    """What was last asked about a sequence: propose from ``position`` on, for ``target_id``."""

    target_id: str
    position: int
    num_draft_tokens: int
    num_ahead: int
    num_branches: int
    num_prompt_tokens: int
    tree: DraftTree
    touched_at: float
    is_answered: bool = False


@dataclass
class _Outbox:
    """What is to be told to one target: the newest proposal of each sequence."""

    proposals: dict[str, Proposal] = field(default_factory=dict)
    is_urgent: bool = False
    sent_at: float = 0.0


class DraftLoop(ModelLoop):
    """Runs one draft engine: corrects its sequences to what targets confirm and proposes what follows.

    Of several questions about one sequence only the latest is answered. What is written ahead of an answer is told in
    pieces, each with everything behind what the target has confirmed.
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
        super().__init__(engine, link, info, router_id, config, clock)
        self._goals: dict[str, _Goal] = {}  # by request id, the least recently touched first
        self._pending: dict[str, tuple[str, ExtendItem]] = {}
        self._outboxes: defaultdict[str, _Outbox] = defaultdict(_Outbox)
        self._step_time = Mean(0.0)
        self._idle = Stopwatch()
        self._curve = StepCurve(*STEP_PRIOR, prior_x=64.0)

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
            case Drain():
                self.reporter.drain()
            case Stop():
                self.stop()
            case _:
                logger.warning("draft %s: no use for a %s", self._worker_id, type(message).__name__)

    def run_once(self) -> None:
        """Apply what came in, run one forward if there is work, answer, and report if it is time.

        Raises the engine's own error once :data:`MAX_CRASHES` forwards in a row have failed.
        """
        self._apply()
        has_work = self._engine.has_work()
        self._idle.note(self._clock(), is_waiting=not has_work and bool(self._goals))
        if has_work:
            self._step()
        now = self._clock()
        if now >= self.reporter.next_time:
            self._drop_idle(now)
            self.reporter.send(
                now,
                self._engine.stats(),
                drafting=DraftingStats(idle_time=self._idle.total),
                step_times=self._step_times.entries(),
            )
            if self.reporter.is_draining and not self._goals and not self._pending:
                self.stop()

    def has_work(self) -> bool:
        """Whether :meth:`run_once` should be called again at once."""
        return bool(self._pending) or self._engine.has_work()

    def next_deadline(self) -> float:
        """Return when :meth:`run_once` has to be called even though nothing has come in."""
        return self.reporter.next_time

    def _apply(self) -> None:
        now = self._clock()
        unknown: defaultdict[str, list[str]] = defaultdict(list)
        for request_id, (target_id, item) in self._pending.items():
            position = item.start + len(item.token_ids)
            try:
                tree = self._extend(item)
            except KeyError:
                self._drop(request_id)
                unknown[target_id].append(request_id)
            except Exception as error:
                self._refuse(target_id, request_id, position, str(error))
            else:
                known = self._goals.pop(request_id, None)
                self._goals[request_id] = _Goal(
                    target_id,
                    position,
                    item.num_draft_tokens,
                    item.num_ahead,
                    item.num_branches,
                    item.num_prompt_tokens or (known.num_prompt_tokens if known else 0),
                    tree,
                    touched_at=now,
                )
        self._pending.clear()
        self._branch()
        self._send(now, unknown)

    def _extend(self, item: ExtendItem) -> DraftTree:
        """Bring one sequence to what its target confirmed and set it running, from a branch where that foresaw it.

        Raises KeyError where it is unknown, RequestError where it cannot be served.
        """
        size = self._info.vocab_size
        if size and any(token_id >= size for token_id in item.token_ids):
            raise RequestError(f"the vocabulary has only {size} tokens")
        start, token_ids = item.start, item.token_ids
        goal = self._goals.get(item.request_id)
        tree = DraftTree(self._engine, item.request_id) if goal is None else goal.tree
        if item.params is not None and goal is None:
            self._engine.open(
                Request(
                    request_id=item.request_id,
                    prompt_token_ids=token_ids[: item.num_prompt_tokens],
                    params=msgspec.structs.replace(
                        item.params,
                        # Only its own confidence is of interest.
                        logprobs=0 if item.params.assistant_confidence_threshold else None,
                        prompt_logprobs=None,
                    ),
                    emitted_token_ids=token_ids[item.num_prompt_tokens :],
                )
            )
            start, token_ids = len(token_ids), ()
        tree.confirm(start, token_ids)
        self._engine.extend(tree.trunk_id, start, token_ids, item.num_draft_tokens, item.num_ahead)
        return tree

    def _step(self) -> None:
        started = self._clock()
        try:
            deltas = self._engine.step()
        except Exception as error:
            self._crash(error)
            return
        now = self._clock()
        self._num_crashes = 0
        num_tokens = self._engine.num_step_tokens
        self._step_times.add(num_tokens, now - started)
        if num_tokens:
            self._curve.add(num_tokens, now - started)
        num_sequences = sum(1 + goal.tree.num_branches for goal in self._goals.values())
        if 0 < num_tokens <= MAX_CATCH_UP * num_sequences:
            self._step_time.add(now - started)
        for delta in deltas:
            request_id = request_of(delta.request_id)
            goal = self._goals.get(request_id)
            if goal is not None:
                self._tell(request_id, goal, delta)
        self._branch()
        self._send(now, {})

    def _tell(self, request_id: str, goal: _Goal, delta: Delta) -> None:
        """Note what was written for a sequence, to be told to its target."""
        is_trunk = delta.request_id == goal.tree.trunk_id
        if delta.finish_reason is FinishReason.ERROR:
            if is_trunk:
                self._refuse(goal.target_id, request_id, goal.position, delta.error)
            else:
                goal.tree.drop(delta.request_id)
            return
        outbox = self._outboxes[goal.target_id]
        start = delta.start + goal.num_prompt_tokens
        outbox.proposals[delta.request_id] = Proposal(
            request_id=request_id,
            start=start,
            token_ids=delta.token_ids,
            fork=0 if is_trunk else goal.tree.position(delta.request_id),
        )
        if is_trunk:
            goal.tree.grow(start, delta.token_ids)
            is_complete = len(delta.token_ids) >= goal.num_draft_tokens + goal.num_ahead
            outbox.is_urgent |= is_complete or not goal.is_answered
            goal.is_answered = True

    def _branch(self) -> None:
        """Go on from second choices too, as far as more rows cost a forward next to nothing."""
        wanted = [goal for goal in self._goals.values() if goal.tree.can_branch(goal.num_branches)]
        if not wanted:
            return
        num_rows = len(self._goals)
        num_spare = self._curve.num_within(num_rows, MAX_BRANCH_COST) - num_rows
        num_spare -= sum(goal.tree.num_branches for goal in self._goals.values())
        for goal in wanted:
            num_spare -= goal.tree.branch(goal.num_branches, goal.num_draft_tokens + goal.num_ahead, num_spare)

    def _send(self, now: float, unknown: dict[str, list[str]]) -> None:
        """Send what targets wait for at once, and what was written ahead of that not too often."""
        is_idle = not self._engine.has_work()
        for target_id in unknown:
            self._outboxes[target_id].is_urgent = True
        for target_id, outbox in list(self._outboxes.items()):
            if not outbox.is_urgent and not (
                outbox.proposals and (is_idle or now - outbox.sent_at >= MIN_PIECE_INTERVAL)
            ):
                continue
            self._outboxes[target_id] = _Outbox(sent_at=now)
            self._link.send(
                target_id,
                Proposals(
                    draft_id=self._worker_id,
                    items=tuple(outbox.proposals.values()),
                    unknown=tuple(unknown.get(target_id, ())),
                    step_time=self._step_time.value,
                ),
            )

    def _refuse(self, target_id: str, request_id: str, position: int, error: str) -> None:
        """Say that a sequence cannot be served, and forget it."""
        logger.info("draft %s cannot serve %s: %s", self._worker_id, request_id, error)
        self._drop(request_id)
        outbox = self._outboxes[target_id]
        outbox.proposals[request_id] = Proposal(request_id=request_id, start=position, token_ids=())
        outbox.is_urgent = True

    def _crash(self, error: Exception) -> None:
        """Forget every sequence after a forward that failed as a whole; targets decode on and tell us anew."""
        self._count_crash(error)
        for request_id in list(self._goals):
            self._drop(request_id)

    def _drop(self, request_id: str) -> None:
        goal = self._goals.pop(request_id, None)
        if goal is None:
            self._engine.abort(request_id)
            return
        proposals = self._outboxes[goal.target_id].proposals
        for engine_id in goal.tree.close():
            proposals.pop(engine_id, None)

    def _drop_idle(self, now: float) -> None:
        for request_id, goal in list(self._goals.items()):
            if now - goal.touched_at < IDLE_TIMEOUT:
                break
            self._drop(request_id)
