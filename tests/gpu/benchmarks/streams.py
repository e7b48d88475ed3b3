"""Runs of our engine: one stream, many streams, and a synchronous round of a draft and its target."""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.engine.params import GenerationParams
from actors.engine.request import Delta, FinishReason, Request

Engine = Any
"""An :class:`actors.engine.protocol.TokenEngine`."""

_numbers = itertools.count()


def fresh_request(prompt: Sequence[int], num_new_tokens: int) -> Request:
    """A greedy request with a name of its own that goes to its full length."""
    params = GenerationParams(max_new_tokens=num_new_tokens, ignore_eos=True)
    return Request(request_id=f"q{next(_numbers)}", prompt_token_ids=tuple(prompt), params=params)


def ragged_prompts(count: int, low: int, high: int, vocab: int, seed: int = 0) -> list[list[int]]:
    """Prompts of ``low`` to ``high`` random ids."""
    source = random.Random(seed)
    return [[source.randrange(1, vocab) for _ in range(source.randint(low, high))] for _ in range(count)]


def step(engine: Engine) -> list[Delta]:
    """One step. Raises RuntimeError where a sequence fails in it."""
    deltas: list[Delta] = engine.step()
    for delta in deltas:
        if delta.finish_reason is FinishReason.ERROR:
            raise RuntimeError(f"{delta.request_id}: {delta.error}")
    return deltas


def run_plain(engine: Engine, prompts: Sequence[Sequence[int]], num_new_tokens: int) -> list[list[int]]:
    """Decode all prompts side by side; the new ids of each."""
    requests = [fresh_request(prompt, num_new_tokens) for prompt in prompts]
    ids: dict[str, list[int]] = {request.request_id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work():
        for delta in step(engine):
            ids[delta.request_id] += delta.token_ids
    return list(ids.values())


class Decoding:
    """Sequences that decode side by side, their prompts computed, for measuring single steps."""

    def __init__(self, engine: Engine, prompts: Sequence[Sequence[int]], num_new_tokens: int) -> None:
        self._engine = engine
        self.lengths: dict[str, int] = {}
        for prompt in prompts:
            request = fresh_request(prompt, num_new_tokens)
            self.lengths[request.request_id] = len(prompt)
            engine.add(request)
        before = dict(self.lengths)
        while any(self.lengths[name] == length for name, length in before.items()):
            self.step()

    def propose(self, token_ids: Sequence[int]) -> None:
        """Have the next step check ``token_ids`` behind each sequence too."""
        for name, length in self.lengths.items():
            self._engine.propose(name, length, token_ids)

    def step(self) -> None:
        """One step."""
        for delta in step(self._engine):
            self.lengths[delta.request_id] += len(delta.token_ids)

    def end(self) -> None:
        """Drop the sequences."""
        for name in self.lengths:
            self._engine.abort(name)


@dataclass
class Drafted:
    """What came of assisted runs, summed.

    Attributes:
        ids: new ids of each run.
        num_checks: forwards of the target behind the prompt.
        num_drafts: those with drafted ids.
        num_drafted: ids that were drafted.
        num_accepted: those of them that were right.
        num_full: drafts that were right to their end.
    """

    ids: list[list[int]] = field(default_factory=list)
    num_checks: int = 0
    num_drafts: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_full: int = 0

    @property
    def acceptance(self) -> float:
        """The chance that a drafted id is right where those before it are."""
        num_tested = self.num_accepted + self.num_drafts - self.num_full
        return self.num_accepted / num_tested if num_tested else 0.0

    @property
    def tokens_per_check(self) -> float:
        """Ids that a forward of the target yields."""
        return (sum(map(len, self.ids)) - len(self.ids)) / max(1, self.num_checks)


def run_assisted(
    target: Engine, draft: Engine, prompt: Sequence[int], num_new_tokens: int, k: int, account: Drafted
) -> int:
    """Decode one prompt in synchronous rounds: ``k`` ids by the draft, one check by the target. Returns the count."""
    request = fresh_request(prompt, num_new_tokens)
    name = request.request_id
    target.add(request)
    draft.open(request)
    ids, told = list(prompt), len(prompt)
    while len(ids) == len(prompt):
        for delta in step(target):
            ids += delta.token_ids
    is_over = len(ids) - len(prompt) >= num_new_tokens
    while not is_over:
        width = min(k, num_new_tokens - (len(ids) - len(prompt)) - 1)
        if width > 0:
            draft.extend(name, told, ids[told:], width)
            told = len(ids)
            target.propose(name, len(ids), drafted_ids(draft, name))
        for delta in step(target):
            ids += delta.token_ids
            account.num_checks += 1
            account.num_drafts += delta.num_drafted > 0
            account.num_drafted += delta.num_drafted
            account.num_accepted += delta.num_accepted
            account.num_full += 0 < delta.num_drafted == delta.num_accepted
            is_over = delta.finish_reason is not None
    draft.abort(name)
    account.ids.append(ids[len(prompt) :])
    return len(ids) - len(prompt)


def drafted_ids(draft: Engine, name: str) -> tuple[int, ...]:
    """Step a draft until it has answered for the sequence ``name``."""
    while True:
        for delta in step(draft):
            if delta.request_id == name:
                return delta.token_ids


def cycling(prompts: Sequence[Sequence[int]], run: Callable[[Sequence[int]], int]) -> Callable[[], int]:
    """Work that takes the next prompt each time, so that contenders that take turns have the same ones."""
    source = itertools.cycle(prompts)
    return lambda: run(next(source))
