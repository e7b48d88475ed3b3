"""Stand-ins for what the loops and the router talk to: an engine with a toy language model, links, a clock."""

import heapq
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from actors.codec import decode, encode
from actors.config import WorkerConfig
from actors.engine.errors import RequestError
from actors.engine.params import GenerationParams
from actors.engine.protocol import TokenEngine
from actors.engine.request import Delta, EngineStats, FinishReason, Request
from actors.messages import Message
from actors.status import WorkerInfo

VOCAB_SIZE = 97
POISON_ID = 96  # a prompt that begins with it makes a whole forward of a fake engine fail
DEADLY_ID = 95  # ... and this one kills the process
MASK = (1 << 61) - 1


def mix(token_ids: Sequence[int], seed: int) -> int:
    """A hash of ids and seed that is the same in every process."""
    value = seed * 0x9E3779B97F4A7C15 + 0x2545F4914F6CDD1D
    for token_id in token_ids[-8:]:
        value = ((value ^ (token_id + 1)) * 0xBF58476D1CE4E5B9) & MASK
        value ^= value >> 29
    return value


def next_token(token_ids: Sequence[int], seed: int) -> int:
    """The toy language model: what follows some ids is a function of them and of the seed."""
    return (mix(token_ids, seed) ^ len(token_ids)) % VOCAB_SIZE


def expected_tokens(request: Request) -> tuple[int, ...]:
    """What a target must emit for a request, however it is drafted, batched, lost and placed again."""
    ids = list(request.prompt_token_ids)
    while len(ids) - len(request.prompt_token_ids) < request.params.max_new_tokens:
        ids.append(next_token(ids, request.params.seed))
        if ids[-1] in request.params.eos_token_id:
            break
    return tuple(ids[len(request.prompt_token_ids) :])


def make_request(request_id: str, num_prompt: int = 5, max_new_tokens: int = 20, seed: int = 0) -> Request:
    prompt = tuple((seed * 31 + position * 7) % 90 for position in range(num_prompt))
    return Request(
        request_id=request_id,
        prompt_token_ids=prompt,
        params=GenerationParams(max_new_tokens=max_new_tokens, seed=seed),
    )


def make_info(worker_id: str, role: str = "target", pid: int = 1, pool: str = "demo") -> WorkerInfo:
    return msgspec.convert(
        {"worker_id": worker_id, "role": role, "pool": pool, "model": "toy", "pid": pid, "vocab_size": VOCAB_SIZE},
        WorkerInfo,
    )


@dataclass
class _Sequence:
    ids: list[int]
    num_prompt: int
    params: GenerationParams
    is_draft: bool = False
    is_held: bool = False
    goal: int = 0
    told: int = 0
    num_to_answer: int = 0
    proposal: tuple[int, ...] = ()

    @property
    def num_emitted(self) -> int:
        return len(self.ids) - self.num_prompt


@dataclass
class FakeEngine:
    """Fulfils :class:`actors.engine.protocol.TokenEngine` with the toy model.

    Attributes:
        agreement: probability with which a draft sequence's token is the target's own.
        step_time: seconds that a forward sleeps.
        max_num_running: target sequences that run at a time; the others queue.
        num_added: target sequences that it was given.
    """

    agreement: float = 0.8
    step_time: float = 0.0
    max_num_sequences: int = 10_000
    max_num_running: int = 10_000
    num_added: int = 0
    fail: Callable[[list[Sequence[int]]], bool] = lambda batch: any(ids[0] == POISON_ID for ids in batch)
    num_step_tokens: int = 0
    _sequences: dict[str, _Sequence] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _per_pos: list[int] = field(default_factory=lambda: [0] * 64)
    _ended: list[Delta] = field(default_factory=list)

    def add(self, request: Request) -> None:
        if request.request_id in self._sequences:
            raise RequestError("duplicate id", field="request_id")
        if len(request.prompt_token_ids) > 1000:
            raise RequestError("the prompt is too long", field="prompt", limit="1000")
        ids = [*request.prompt_token_ids, *request.emitted_token_ids]
        self._sequences[request.request_id] = _Sequence(ids, len(request.prompt_token_ids), request.params)
        self.num_added += 1

    def propose(self, request_id: str, start: int, token_ids: Sequence[int]) -> None:
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return
        sequence.is_held = False
        known = sequence.ids[start:]
        if start <= len(sequence.ids) and list(token_ids[: len(known)]) == known:
            sequence.proposal = tuple(token_ids[len(known) :])

    def hold(self, request_id: str) -> None:
        if request_id in self._sequences:
            self._sequences[request_id].is_held = True

    def release(self, request_id: str) -> None:
        if request_id in self._sequences:
            self._sequences[request_id].is_held = False

    def abort(self, request_id: str) -> None:
        self._sequences.pop(request_id, None)
        self._ended = [delta for delta in self._ended if delta.request_id != request_id]

    def open(self, request: Request) -> None:
        if len(self._sequences) >= self.max_num_sequences:
            raise RequestError("no room")
        ids = [*request.prompt_token_ids, *request.emitted_token_ids]
        self._sequences[request.request_id] = _Sequence(
            ids, len(request.prompt_token_ids), request.params, is_draft=True
        )

    def extend(
        self, request_id: str, start: int, token_ids: Sequence[int], num_new_tokens: int, num_ahead: int = 0
    ) -> None:
        sequence = self._sequences[request_id]
        if start > len(sequence.ids):
            raise KeyError(request_id)
        self._ended = [delta for delta in self._ended if delta.request_id != request_id]
        told = start + len(token_ids)
        if sequence.ids[start:told] != list(token_ids) or told < sequence.told:
            sequence.ids[start:] = token_ids
        sequence.told = told
        sequence.num_to_answer = told + num_new_tokens
        sequence.goal = told + num_new_tokens + num_ahead
        if len(sequence.ids) >= sequence.goal:
            self._ended.append(self._drafted(request_id, sequence))

    def fork(self, request_id: str, fork_id: str, position: int, num_new_tokens: int) -> int | None:
        source = self._sequences.get(request_id)
        if source is None or not source.told <= position < len(source.ids):
            return None
        right = next_token(source.ids[:position], source.params.seed)
        token_id = right if source.ids[position] != right else (right + 1) % VOCAB_SIZE
        fork = _Sequence([*source.ids[:position], token_id], source.num_prompt, source.params, is_draft=True)
        fork.told, fork.num_to_answer, fork.goal = source.told, position + 1, position + 1 + num_new_tokens
        self._sequences[fork_id] = fork
        return token_id

    def step(self) -> list[Delta]:
        ended, self._ended = self._ended, []
        self.num_step_tokens = 0
        queued = self._queued()
        ready = {i: s for i, s in self._sequences.items() if self._is_ready(s) and i not in queued}
        if not ready:
            return ended
        time.sleep(self.step_time)
        if self.fail([sequence.ids for sequence in ready.values()]):
            raise RuntimeError("the forward failed")
        if any(sequence.ids[0] == DEADLY_ID for sequence in ready.values()):
            import os

            os._exit(1)
        self._counts["num_steps"] += 1
        self.num_step_tokens = sum(1 + len(sequence.proposal) for sequence in ready.values())
        deltas = ended
        for request_id, sequence in ready.items():
            delta = self._draft(request_id, sequence) if sequence.is_draft else self._verify(request_id, sequence)
            if delta is not None:
                deltas.append(delta)
                if not sequence.is_draft and delta.finish_reason is not None:
                    del self._sequences[request_id]
        return deltas

    def has_work(self) -> bool:
        return bool(self._ended) or any(self._is_ready(sequence) for sequence in self._sequences.values())

    def _queued(self) -> set[str]:
        targets = [request_id for request_id, sequence in self._sequences.items() if not sequence.is_draft]
        return set(targets[self.max_num_running :])

    def num_unfinished(self) -> int:
        return sum(not sequence.is_draft for sequence in self._sequences.values())

    def stats(self) -> EngineStats:
        counts = dict(self._counts)
        return EngineStats(
            num_running=len(self._sequences) - len(self._queued()),
            num_waiting=len(self._queued()),
            num_accepted_tokens_per_pos=tuple(self._per_pos),
            **counts,
        )

    def _is_ready(self, sequence: _Sequence) -> bool:
        return len(sequence.ids) < sequence.goal if sequence.is_draft else not sequence.is_held

    def _draft(self, request_id: str, sequence: _Sequence) -> Delta | None:
        token_id = next_token(sequence.ids, sequence.params.seed)
        if mix(sequence.ids, 12345) % 1000 >= self.agreement * 1000:
            token_id = (token_id + 1) % VOCAB_SIZE
        sequence.ids.append(token_id)
        is_eos = token_id in sequence.params.eos_token_id
        if len(sequence.ids) >= sequence.goal or is_eos:
            sequence.goal = 0
        elif len(sequence.ids) < sequence.num_to_answer:
            return None
        return self._drafted(request_id, sequence)

    def _drafted(self, request_id: str, sequence: _Sequence) -> Delta:
        start = sequence.told - sequence.num_prompt
        return Delta(request_id=request_id, start=start, token_ids=tuple(sequence.ids[sequence.told :]))

    def _verify(self, request_id: str, sequence: _Sequence) -> Delta:
        start, proposal, sequence.proposal = sequence.num_emitted, sequence.proposal, ()
        new: list[int] = []
        reason = None
        num_accepted = 0
        for position in range(len(proposal) + 1):
            token_id = next_token(sequence.ids, sequence.params.seed)
            sequence.ids.append(token_id)
            new.append(token_id)
            is_accepted = position < len(proposal) and proposal[position] == token_id
            num_accepted += is_accepted
            if is_accepted:
                self._per_pos[position] += 1
            if token_id in sequence.params.eos_token_id:
                reason = FinishReason.STOP
            elif sequence.num_emitted >= sequence.params.max_new_tokens:
                reason = FinishReason.LENGTH
            if reason is not None or not is_accepted:
                break
        self._counts["num_generated_tokens"] += len(new)
        self._counts["num_computed_tokens"] += 1 + len(proposal)
        if proposal:
            self._counts["num_drafts"] += 1
            self._counts["num_draft_tokens"] += len(proposal)
            self._counts["num_accepted_tokens"] += num_accepted
        return Delta(
            request_id=request_id,
            start=start,
            token_ids=tuple(new),
            num_drafted=len(proposal),
            num_accepted=num_accepted,
            finish_reason=reason,
        )


@dataclass
class ToyEngineFactory:
    """An engine factory for actors: picklable, and free of torch."""

    agreement: float = 0.8
    step_time: float = 0.005
    error: Exception | None = None

    def __call__(self, info: WorkerInfo, config: WorkerConfig) -> tuple[TokenEngine, WorkerInfo]:
        if self.error is not None:
            raise self.error
        engine = FakeEngine(agreement=self.agreement, step_time=self.step_time)
        return engine, msgspec.structs.replace(info, vocab_size=VOCAB_SIZE, devices=("cpu",))


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class ListLink:
    """Keeps what was sent, as (peer, message)."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []

    def send(self, peer: str, message: Message) -> None:
        self.sent.append((peer, decode(encode(message))))

    def take(self, peer: str | None = None) -> list[Message]:
        """Return and forget the messages sent to a peer, or all."""
        taken = [message for to, message in self.sent if peer in (None, to)]
        self.sent = [(to, message) for to, message in self.sent if peer not in (None, to)]
        return taken


class LossyNetwork:
    """Delivers messages between peers at random times: some late, some twice, some never, so in any order."""

    def __init__(
        self, clock: FakeClock, seed: int, *, loss: float = 0.0, twice: float = 0.0, delay: float = 0.0
    ) -> None:
        self._clock = clock
        self._random = random.Random(seed)
        self._loss, self._twice, self._delay = loss, twice, delay
        self._queue: list[tuple[float, int, str, bytes]] = []
        self._count = 0
        self.receivers: dict[str, Callable[[Message], None]] = {}

    def send(self, peer: str, message: Message) -> None:
        if self._random.random() < self._loss:
            return
        for _ in range(2 if self._random.random() < self._twice else 1):
            self._count += 1
            when = self._clock() + 0.0005 + self._random.random() * self._delay
            heapq.heappush(self._queue, (when, self._count, peer, encode(message)))

    def next_time(self) -> float:
        """When the next message is due; infinity where none is on its way."""
        return self._queue[0][0] if self._queue else math.inf

    def deliver(self) -> None:
        """Hand over everything that is due."""
        while self._queue and self._queue[0][0] <= self._clock():
            _, _, peer, frame = heapq.heappop(self._queue)
            receiver = self.receivers.get(peer)
            if receiver is not None:
                receiver(decode(frame))
