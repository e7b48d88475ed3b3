"""The target's half of drafting: asks drafts for proposals, decides how long to wait for them, and gives up in time.

::

    sequence   prompt ........ emitted ......|                     len(token_ids): confirmed by the target
    draft      |<--- num_acked --->|                               confirmed ids that its last answer was built on
    Extend                         |<- ids ->|<- k ->|<- ahead ->|  start = num_acked: one that was lost is repeated

With overlap a draft writes on while its target checks, as if all that it wrote were right. What it tells of that is
kept (:mod:`actors.written`), so that after a check that went well the next one has its drafts at hand. After one that
did not, the next Extend turns the draft around.

A target runs all its sequences together, each with the drafts at hand, and waits for more only while they are worth
more than the time (:mod:`actors.gate`). Sequences with a pinned draft length stay out of forwards until they have
their drafts, and hold up nobody else. Nothing waits for a draft that has yet to read the prompt.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from actors.config import RouterConfig
from actors.draft_length import expected_tokens
from actors.draft_view import DraftView
from actors.drafted_sequence import Ask, DraftedSequence, known_ids
from actors.engine.protocol import TokenEngine
from actors.engine.request import Delta, Request
from actors.gate import Gate
from actors.link import Link
from actors.messages import Close, Extend, ExtendItem, Proposal, Proposals
from actors.planner import Planner
from actors.status import DraftingStats
from actors.written import Verdict

FIRST_ANSWER_TIMEOUTS = 4  # draft timeouts that a draft may take to read a prompt before it counts as a miss
MAX_BRANCHES = 8
PROBE_LENGTH = 4  # tokens asked of a draft that does not pay, to see whether it does by now


class Rounds:
    """Every sequence of one target, as its drafts see it. Called by :class:`actors.target_loop.TargetLoop` only."""

    def __init__(
        self,
        engine: TokenEngine,
        link: Link,
        target_id: str,
        config: RouterConfig,
        clock: Callable[[], float],
        vocab_size: int = 0,
    ) -> None:
        self._engine = engine
        self._link = link
        self._target_id = target_id
        self._config = config
        self._clock = clock
        self._vocab_size = vocab_size
        self._pinned = config.num_assistant_tokens
        self._sequences: dict[str, DraftedSequence] = {}
        self._drafts: defaultdict[str, DraftView] = defaultdict(DraftView)
        self._planner = Planner(config)
        self._held: set[str] = set()
        self._num_steps = 0
        self._expected = 0.0  # tokens that the running step should yield, by what is known of its drafts
        self._advanced_at: float | None = None
        self._has_new = False  # sequences whose prompts are not known to be computed: they must not wait for drafts
        self._gate = Gate(config, self._planner, self._drafts)
        self._counts: Counter[str] = Counter()
        self._lengths: dict[int, int] = {}  # pinned draft lengths, and what the schedule "heuristic" has made of them
        self.last_draft_length = 0

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._sequences

    def __getitem__(self, request_id: str) -> DraftedSequence:
        return self._sequences[request_id]

    def request_ids(self) -> tuple[str, ...]:
        """Return the ids of all sequences."""
        return tuple(self._sequences)

    def stats(self) -> DraftingStats:
        """Return what has been counted."""
        return DraftingStats(**self._counts)

    def set_draft_length(self, num_draft_tokens: int) -> None:
        """Pin the draft length of sequences that do not pin their own."""
        self._pinned = num_draft_tokens

    def add(self, request: Request, draft_id: str) -> None:
        """Take a sequence on. Its draft is told the prompt at once, so that both read it at the same time."""
        self._sequences[request.request_id] = DraftedSequence(
            token_ids=[*request.prompt_token_ids, *request.emitted_token_ids],
            num_prompt_tokens=len(request.prompt_token_ids),
            params=request.params,
        )
        self._has_new = True
        self.pair((request.request_id,), draft_id)

    def pair(self, request_ids: Iterable[str], draft_id: str) -> None:
        """Change the draft of some sequences; an empty id means plain decoding."""
        changed = [i for i in request_ids if i in self._sequences and self._sequences[i].draft_id != draft_id]
        self._close(changed)
        for request_id in changed:
            self._sequences[request_id].pair(draft_id)
        self._ask(changed)

    def remove(self, request_ids: Iterable[str]) -> None:
        """Forget sequences that have ended or were taken back."""
        known = [request_id for request_id in request_ids if request_id in self._sequences]
        self._close(known)
        for request_id in known:
            del self._sequences[request_id]
        self._gate.reconsider()

    def note_step(self, num_rows: int, elapsed: float, *, is_decode: bool) -> None:
        """Learn from a forward of ``num_rows`` rows that took ``elapsed`` seconds; prefill says nothing here."""
        self._num_steps += 1
        self._has_new = not is_decode
        if is_decode and num_rows:
            self._planner.note_step(num_rows, elapsed, is_overlapped=self._planner.is_overlapped)

    def advance(self, deltas: Iterable[Delta]) -> None:
        """Enter a step's new tokens, let go of sequences that ended, and tell drafts about the others."""
        ended: list[str] = []
        running: list[str] = []
        has_drafts = False
        for delta in deltas:
            sequence = self._sequences.get(delta.request_id)
            if sequence is None:
                continue
            has_drafts |= delta.num_drafted > 0
            verdict = sequence.written.advance(len(sequence.token_ids), delta.token_ids)
            sequence.token_ids.extend(delta.token_ids)
            self._learn(sequence, verdict)
            if not delta.num_drafted:
                sequence.acceptance.forget()
            sequence.reschedule(delta, self._lengths)
            sequence.num_unserved_steps = max(0, sequence.num_unserved_steps - 1)
            (running if delta.finish_reason is None else ended).append(delta.request_id)
        self.remove(ended)
        self._counts["num_rounds"] += has_drafts
        self._count_yield(is_idle=not running)
        self._ask(running)

    def _count_yield(self, *, is_idle: bool) -> None:
        """Tell the planner what the last step should have yielded, by what was checked in it, and in what time."""
        now, since = self._clock(), self._advanced_at
        seconds = 0.0 if since is None or self._has_new else now - since
        self._planner.next_step(len(self._sequences), self._expected, seconds)
        self._advanced_at = None if is_idle else now

    def receive(self, message: Proposals) -> None:
        """Take in a draft's proposals. Answers to questions long given up do no harm."""
        view, now = self._drafts[message.draft_id], self._clock()
        if message.step_time > 0.0:
            view.steps[self._planner.is_overlapped].add(message.step_time)
        answered = []
        for proposal in message.items:
            sequence = self._sequences.get(proposal.request_id)
            if sequence is None or sequence.draft_id != message.draft_id or proposal.start > len(sequence.token_ids):
                continue
            if self._take(sequence, view, proposal, now):
                answered.append(proposal.request_id)
        unknown = []
        for request_id in message.unknown:
            sequence = self._sequences.get(request_id)
            if sequence is not None and sequence.draft_id == message.draft_id:
                sequence.num_acked = 0
                self._drop_ask(request_id)
                unknown.append(request_id)
        view.answered(answered, now, self._config.draft_timeout)
        self._gate.reconsider()
        self._ask(unknown)

    def is_ready(self) -> bool:
        """Whether the engine should run now, rather than wait for drafts that are about to come."""
        running = (sequence for request_id, sequence in self._sequences.items() if request_id not in self._held)
        return self._gate.is_open(running, self._clock(), has_new=self._has_new)

    def attach(self) -> None:
        """Hand the engine the drafts that its next forward is to check."""
        self._expected = float(len(self._sequences) - len(self._held))
        for request_id, sequence in self._sequences.items():
            token_ids = sequence.written.ahead(len(sequence.token_ids))
            if not token_ids or request_id in self._held:
                continue
            if sequence.pinned is not None:
                count = sequence.scheduled or sequence.pinned
            elif sequence.plan is not None:
                to_check = sequence.plan.num_to_check
                count = to_check[min(len(token_ids), len(to_check) - 1)]
            else:
                count = 0
            if count:
                self._engine.propose(request_id, len(sequence.token_ids), token_ids[:count])
                rate = self._drafts[sequence.draft_id].acceptance.rate
                self._expected += expected_tokens(rate, min(count, len(token_ids))) - 1.0

    def expire(self) -> None:
        """Give up questions whose deadline has passed: their sequences decode on plainly."""
        now = self._clock()
        silent = {draft_id for draft_id, view in self._drafts.items() if view.expire(now)}
        for request_id in [*self._held]:
            sequence = self._sequences[request_id]
            if sequence.draft_id in silent or (sequence.ask is not None and sequence.ask.deadline <= now):
                self._drop_ask(request_id)
        if silent:
            self._gate.reconsider()

    def next_deadline(self) -> float | None:
        """Return when something is due here although nothing has come in; None while nothing is awaited."""
        times = [view.deadline for view in self._drafts.values() if view.deadline is not None]
        times += [ask.deadline for i in self._held if (ask := self._sequences[i].ask) is not None]
        if self._gate.opens_at:
            times.append(self._gate.opens_at)
        return min(times, default=None)

    def _take(self, sequence: DraftedSequence, view: DraftView, proposal: Proposal, now: float) -> bool:
        """Take in what was drafted for one sequence; whether it answers the open question."""
        token_ids = known_ids(proposal.token_ids, self._vocab_size)
        self._learn(sequence, sequence.written.add(proposal.start, token_ids, sequence.token_ids, proposal.fork))
        ask = sequence.ask
        is_answer = ask is not None and proposal.start >= ask.position and not proposal.fork
        if is_answer and not token_ids:
            sequence.unserved()
            self._drop_ask(proposal.request_id)
            return True
        sequence.num_acked = max(sequence.num_acked, proposal.start)
        if ask is None:
            return False
        is_waiting = ask.step == self._num_steps
        if is_waiting and not proposal.fork:
            sequence.pace = (sequence.num_written - 1, now)
        if is_answer or sequence.num_written - len(sequence.token_ids) >= ask.num_draft_tokens:
            self._release(proposal.request_id)
        if is_answer:
            # Only while nothing else ran was the answer what the target waited for.
            if is_waiting and not ask.num_at_hand and ask.can_wait:
                spent = len(token_ids) * view.steps[self._planner.is_overlapped].value
                view.latency.add(max(0.0, now - ask.time - spent))
            sequence.ask = None
        return is_answer

    def _learn(self, sequence: DraftedSequence, verdict: Verdict) -> None:
        sequence.acceptance.add(verdict.num_accepted, verdict.num_rejected)
        if sequence.draft_id:
            view = self._drafts[sequence.draft_id]
            view.acceptance.add(verdict.num_accepted, verdict.num_rejected)
            view.second.add(verdict.num_foreseen, verdict.num_unforeseen)
        self._counts["num_branch_hits"] += verdict.num_foreseen
        sequence.num_branch_hits += verdict.num_foreseen

    def _ask(self, request_ids: Iterable[str]) -> None:
        """Tell the drafts of sequences what is confirmed and ask for proposals, in one message a draft."""
        now = self._clock()
        self._gate.reconsider()
        items: defaultdict[str, list[ExtendItem]] = defaultdict(list)
        for request_id in request_ids:
            sequence = self._sequences[request_id]
            if not sequence.draft_id or sequence.num_unserved_steps:
                continue
            view = self._drafts[sequence.draft_id]
            is_trial = not view.health.can_wait()
            if is_trial and not view.health.can_try(now):
                continue
            if sequence.ask is not None and not sequence.is_known and now < sequence.ask.deadline:
                continue  # it reads the prompt
            item = self._open_ask(request_id, sequence, view, now, can_hold=not is_trial)
            if item is None:
                continue
            if is_trial:
                view.health.tried(now)
            items[sequence.draft_id].append(item)
        for draft_id, of_draft in items.items():
            is_first = all(item.params is not None for item in of_draft)
            timeout = self._config.draft_timeout * (FIRST_ANSWER_TIMEOUTS if is_first else 1)
            self._drafts[draft_id].asked((item.request_id for item in of_draft), now, timeout)
            self._link.send(draft_id, Extend(target_id=self._target_id, items=tuple(of_draft)))

    def _open_ask(
        self, request_id: str, sequence: DraftedSequence, view: DraftView, now: float, *, can_hold: bool
    ) -> ExtendItem | None:
        """Note a question and return what to send; None where drafting does not pay now."""
        k, num_ahead, is_probe = self._length(sequence, view)
        self.last_draft_length = 0 if is_probe else k
        if k == 0:
            self._forget_ask(request_id, sequence)
            return None
        start, is_known, position = sequence.num_acked, sequence.is_known, len(sequence.token_ids)
        at_hand = sequence.num_written - position
        self._counts["num_ahead_hits"] += at_hand > 0
        sequence.num_ahead_hits += at_hand > 0
        self._counts["num_probes"] += is_probe
        num_ahead = max(k, at_hand) + num_ahead - k
        if not 0 < at_hand < sequence.goal - position:  # it was turned around, or has come to rest
            step = view.steps[self._planner.is_overlapped].value
            sequence.pace = (position + at_hand, now + view.latency.value + step)
        can_wait = is_known and can_hold and not is_probe
        timeout = self._config.draft_timeout * (1 if is_known else FIRST_ANSWER_TIMEOUTS)
        sequence.ask = Ask(position, k, at_hand, now, now + timeout, self._num_steps, can_wait)
        sequence.goal = position + k + num_ahead
        if can_wait and sequence.pinned is not None and at_hand < k:
            self._held.add(request_id)
            self._engine.hold(request_id)
        return ExtendItem(
            request_id=request_id,
            start=start,
            token_ids=tuple(sequence.token_ids[start:]),
            num_draft_tokens=k,
            num_ahead=num_ahead,
            num_branches=min(max(k, at_hand) + 1, MAX_BRANCHES) if num_ahead and self._config.branches else 0,
            num_prompt_tokens=0 if is_known else sequence.num_prompt_tokens,
            params=None if is_known else sequence.params,
        )

    def _length(self, sequence: DraftedSequence, view: DraftView) -> tuple[int, int, bool]:
        """Return how many ids to ask for, how many the draft may write ahead, and whether that is only a probe."""
        pinned = sequence.params.num_assistant_tokens
        sequence.pinned = self._pinned if pinned is None else pinned
        room = max(0, sequence.num_remaining_tokens - 1)  # the target adds one of its own
        if room == 0 or sequence.pinned == 0:
            return 0, 0, False
        plan = sequence.plan = self._planner.plan(sequence.acceptance, view)
        if sequence.pinned is not None:
            k = min(sequence.scheduled or sequence.pinned, room)
            return k, min(plan.num_ahead, k + 1), False
        if plan.is_drafted:
            view.pays()
            return min(plan.num_draft_tokens, room), plan.num_ahead, False
        is_probe = view.take_probe(self._num_steps)
        return min(PROBE_LENGTH * is_probe, room), 0, is_probe

    def _release(self, request_id: str) -> None:
        """Let a held sequence run."""
        if request_id in self._held:
            self._held.discard(request_id)
            self._engine.release(request_id)

    def _forget_ask(self, request_id: str, sequence: DraftedSequence) -> None:
        self._release(request_id)
        if sequence.ask is not None:
            self._drafts[sequence.draft_id].dropped(request_id)
            sequence.ask = None

    def _drop_ask(self, request_id: str) -> None:
        """Stop waiting for an answer and let the sequence run."""
        self._forget_ask(request_id, self._sequences[request_id])

    def _close(self, request_ids: Iterable[str]) -> None:
        """Tell drafts that sequences no longer need them."""
        closed: defaultdict[str, list[str]] = defaultdict(list)
        for request_id in request_ids:
            sequence = self._sequences[request_id]
            if sequence.draft_id and (sequence.ask is not None or sequence.num_acked):
                closed[sequence.draft_id].append(request_id)
            self._drop_ask(request_id)
        for draft_id, ids in closed.items():
            self._link.send(draft_id, Close(request_ids=tuple(ids)))
