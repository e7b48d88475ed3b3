"""The target's half of drafting: asks drafts for proposals, holds sequences for them, and gives up in time.

::

    sequence   prompt ........ emitted ......|             len(token_ids): confirmed by the target
    draft      |<--- num_acked --->|                       confirmed ids that its last answer was built on
    Extend                         |<- ids ->|<--- k --->  start = num_acked: an Extend that was lost is repeated

An Extend always starts where the draft last answered, so a draft never goes on from ids of its own that the target
has since contradicted. A sequence is held only for a draft that has answered for it before: while the draft reads the
prompt, the target decodes plainly.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from actors.config import RouterConfig
from actors.draft_length import Acceptance, best_draft_length, draft_length
from actors.engine.params import GenerationParams
from actors.engine.protocol import TokenEngine
from actors.engine.request import Delta, Request
from actors.health import DraftHealth
from actors.line_fit import LineFit
from actors.link import Link
from actors.messages import Close, Extend, ExtendItem, Proposals

# First guesses in seconds, which a few rounds of measurement replace. Those of a draft's answer are hopeful: what is
# thought too cheap gets tried and measured, what is thought too dear never would.
VERIFY_PRIOR = (0.015, 0.001)
ROUND_PRIOR = (0.001, 0.001)
FIRST_ANSWER_TIMEOUTS = 4  # draft timeouts that a draft may take to read a prompt before it counts as a miss
MAX_SURPRISE = 2.0  # times the usual that an answer's time counts for at most
UNSERVED_STEPS = 16  # plain steps of a sequence that its draft said it cannot serve, before it is asked again


@dataclass
class _Ask:
    """A question to a draft that is still open: propose ``num_draft_tokens`` behind position ``position``."""

    position: int
    num_draft_tokens: int
    time: float
    deadline: float
    is_held: bool
    step: int


@dataclass
class _Sequence:
    token_ids: list[int]
    num_prompt_tokens: int
    params: GenerationParams
    draft_id: str = ""
    num_acked: int = 0
    ask: _Ask | None = None
    acceptance: Acceptance = field(default_factory=Acceptance)
    num_plain_steps: int = 0
    num_unserved_steps: int = 0

    @property
    def num_remaining_tokens(self) -> int:
        return self.params.max_new_tokens - (len(self.token_ids) - self.num_prompt_tokens)


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
        self._sequences: dict[str, _Sequence] = {}
        self._health: defaultdict[str, DraftHealth] = defaultdict(DraftHealth)
        self._asked: set[str] = set()
        self._verify_time = LineFit(*VERIFY_PRIOR, prior_x=16.0)
        self._round_time = LineFit(*ROUND_PRIOR, prior_x=8.0)
        self._num_steps = 0
        self.last_draft_length = 0

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._sequences

    def request_ids(self) -> tuple[str, ...]:
        """Return the ids of all sequences."""
        return tuple(self._sequences)

    def set_draft_length(self, num_draft_tokens: int) -> None:
        """Pin the draft length of sequences that do not pin their own."""
        self._pinned = num_draft_tokens

    def add(self, request: Request, draft_id: str) -> None:
        """Take a sequence on. Its draft is told the prompt at once, so that both read it at the same time."""
        self._sequences[request.request_id] = _Sequence(
            token_ids=[*request.prompt_token_ids, *request.emitted_token_ids],
            num_prompt_tokens=len(request.prompt_token_ids),
            params=request.params,
        )
        self.pair((request.request_id,), draft_id)

    def pair(self, request_ids: Iterable[str], draft_id: str) -> None:
        """Change the draft of some sequences; an empty id means plain decoding."""
        changed = [i for i in request_ids if i in self._sequences and self._sequences[i].draft_id != draft_id]
        self._close(changed)
        for request_id in changed:
            sequence = self._sequences[request_id]
            sequence.draft_id, sequence.num_acked, sequence.num_unserved_steps = draft_id, 0, 0
        self._ask(changed, num_sequences=len(self._sequences))

    def remove(self, request_ids: Iterable[str]) -> None:
        """Forget sequences that have ended or were taken back."""
        known = [request_id for request_id in request_ids if request_id in self._sequences]
        self._close(known)
        for request_id in known:
            del self._sequences[request_id]

    def note_step(self, num_rows: int, elapsed: float, *, is_decode: bool) -> None:
        """Learn from a forward of ``num_rows`` rows that took ``elapsed`` seconds; prefill says nothing here."""
        self._num_steps += 1
        if is_decode and num_rows:
            self._verify_time.add(num_rows, elapsed)

    def advance(self, deltas: Iterable[Delta]) -> None:
        """Enter a step's new tokens, let go of sequences that ended, and ask drafts about the others."""
        ended: list[str] = []
        running: list[str] = []
        for delta in deltas:
            sequence = self._sequences.get(delta.request_id)
            if sequence is None:
                continue
            sequence.token_ids.extend(delta.token_ids)
            sequence.acceptance.add(delta.num_drafted, delta.num_accepted)
            sequence.num_plain_steps = 0 if delta.num_drafted else sequence.num_plain_steps + 1
            sequence.num_unserved_steps = max(0, sequence.num_unserved_steps - 1)
            (running if delta.finish_reason is None else ended).append(delta.request_id)
        self.remove(ended)
        num_held = sum(1 for i in self._asked if (ask := self._sequences[i].ask) is not None and ask.is_held)
        self._ask(running, num_sequences=len(running) + num_held)

    def receive(self, message: Proposals) -> None:
        """Hand a draft's proposals to the engine. Answers to questions long given up do no harm."""
        self._health[message.draft_id].answered()
        now = self._clock()
        for proposal in message.items:
            sequence = self._sequences.get(proposal.request_id)
            if sequence is None or sequence.draft_id != message.draft_id or proposal.start > len(sequence.token_ids):
                continue
            sequence.num_acked = max(sequence.num_acked, proposal.start)
            token_ids = self._known_ids(proposal.token_ids)
            ask = sequence.ask
            if ask is not None and ask.position == proposal.start:
                # Only while nothing else ran was the answer what the target waited for.
                if ask.step == self._num_steps and ask.is_held:
                    # One slow answer, a draft's first above all, must not talk a target out of drafting.
                    usual = self._round_time.line()(ask.num_draft_tokens)
                    self._round_time.add(ask.num_draft_tokens, min(now - ask.time, MAX_SURPRISE * usual))
                if not token_ids:
                    sequence.num_unserved_steps = UNSERVED_STEPS
                    self._drop_ask(proposal.request_id)
                    continue
                sequence.ask = None
                self._asked.discard(proposal.request_id)
            elif ask is not None and ask.is_held:
                continue  # a late answer must not use up the wait for the one that was asked for
            if token_ids:
                self._engine.propose(proposal.request_id, proposal.start, token_ids)
        unknown = []
        for request_id in message.unknown:
            sequence = self._sequences.get(request_id)
            if sequence is not None and sequence.draft_id == message.draft_id:
                sequence.num_acked = 0
                self._drop_ask(request_id)
                unknown.append(request_id)
        self._ask(unknown, num_sequences=len(self._sequences))

    def expire(self) -> None:
        """Give up questions whose deadline has passed: their sequences decode on plainly."""
        now = self._clock()
        late = [i for i in self._asked if (ask := self._sequences[i].ask) is not None and ask.deadline <= now]
        for draft_id in {self._sequences[request_id].draft_id for request_id in late}:
            self._health[draft_id].missed(now)
        for request_id in late:
            self._drop_ask(request_id)

    def next_deadline(self) -> float | None:
        """Return when :meth:`expire` has to be called next; None while nothing is awaited."""
        return min((ask.deadline for i in self._asked if (ask := self._sequences[i].ask) is not None), default=None)

    def _ask(self, request_ids: Iterable[str], num_sequences: int) -> None:
        """Ask the drafts of sequences for proposals, in one message a draft."""
        now = self._clock()
        choose = self._length_chooser(num_sequences)
        items: defaultdict[str, list[ExtendItem]] = defaultdict(list)
        for request_id in request_ids:
            sequence = self._sequences[request_id]
            if not sequence.draft_id or sequence.num_unserved_steps or sequence.ask is not None:
                continue
            health = self._health[sequence.draft_id]
            is_trial = not health.can_wait()
            if is_trial and not health.can_try(now):
                continue
            k = choose(sequence)
            self.last_draft_length = k
            if k == 0:
                continue
            if is_trial:
                health.tried(now)
            items[sequence.draft_id].append(self._open_ask(request_id, k, now, can_hold=not is_trial))
        for draft_id, of_draft in items.items():
            self._link.send(draft_id, Extend(target_id=self._target_id, items=tuple(of_draft)))

    def _open_ask(self, request_id: str, k: int, now: float, *, can_hold: bool) -> ExtendItem:
        """Note a question, hold its sequence where the draft has answered before, and return what to send."""
        sequence = self._sequences[request_id]
        start, is_known = sequence.num_acked, sequence.num_acked > 0
        is_held = is_known and can_hold
        timeout = self._config.draft_timeout * (1 if is_held else FIRST_ANSWER_TIMEOUTS)
        position = len(sequence.token_ids)
        sequence.ask = _Ask(position, k, now, now + timeout, is_held, self._num_steps)
        self._asked.add(request_id)
        if is_held:
            self._engine.hold(request_id)
        return ExtendItem(
            request_id=request_id,
            start=start,
            token_ids=tuple(sequence.token_ids[start:]),
            num_draft_tokens=k,
            num_prompt_tokens=0 if is_known else sequence.num_prompt_tokens,
            params=None if is_known else sequence.params,
        )

    def _drop_ask(self, request_id: str) -> None:
        """Stop waiting for an answer and let the sequence run."""
        sequence = self._sequences[request_id]
        if sequence.ask is not None and sequence.ask.is_held:
            self._engine.release(request_id)
        sequence.ask = None
        self._asked.discard(request_id)

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

    def _known_ids(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids up to the first that the target's vocabulary does not have."""
        if not self._vocab_size:
            return token_ids
        bad = next((n for n, token_id in enumerate(token_ids) if token_id >= self._vocab_size), len(token_ids))
        return token_ids[:bad]

    def _length_chooser(self, num_sequences: int) -> Callable[[_Sequence], int]:
        """Return the function that gives a sequence's draft length, with this moment's timings worked out once."""
        rows = max(1, num_sequences)
        verify, answer = self._verify_time.line(), self._round_time.line()
        chosen: dict[float, int] = {}

        def choose(sequence: _Sequence) -> int:
            pinned = sequence.params.num_assistant_tokens
            pinned = self._pinned if pinned is None else pinned
            rate = round(sequence.acceptance.rate, 2)
            if pinned is None and rate not in chosen:
                chosen[rate] = best_draft_length(rate, rows, self._config.max_num_assistant_tokens, verify, answer)
            return draft_length(
                pinned=pinned,
                adapted=chosen.get(rate, 0),
                num_plain_steps=sequence.num_plain_steps,
                num_remaining_tokens=sequence.num_remaining_tokens,
            )

        return choose
