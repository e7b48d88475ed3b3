"""A sequence that is not computed but made up: its tokens are a function of (seed, absolute position) alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.engine.params import GenerationParams
from actors.engine.request import Delta, FinishReason, TokenLogprobs


@dataclass
class SimulatedSequence:
    """Ids of one sequence; those from ``num_computed`` on have yet to be paid for.

    Attributes:
        max_num_tokens: length at which it ends, prompt included.
        deadline: time at which it ends.
        num_known: ids of a draft sequence that its target confirmed.
        num_blocks: KV blocks that it holds.
        goal: length at which a draft sequence parks.
        num_to_answer: length from which on a draft sequence says what it has.
    """

    request_id: str
    params: GenerationParams
    ids: list[int]
    num_prompt: int
    max_num_tokens: int
    vocab_size: int
    is_draft: bool
    deadline: float
    num_computed: int = 0
    num_known: int = 0
    num_blocks: int = 0
    goal: int = 0
    num_to_answer: int = 0
    is_held: bool = False
    proposal: tuple[int, ...] = ()

    @property
    def num_emitted(self) -> int:
        """Ids behind the prompt."""
        return len(self.ids) - self.num_prompt

    @property
    def num_to_compute(self) -> int:
        """Ids, the proposal's included, that a forward has yet to pay for."""
        return len(self.ids) - self.num_computed + len(self.proposal)

    @property
    def is_parked(self) -> bool:
        """Whether this is a draft sequence at its goal."""
        return self.is_draft and len(self.ids) >= self.goal

    def attach(self, start: int, token_ids: Sequence[int]) -> None:
        """Take the part of a proposal that still lies ahead, less what the sequence has no room for."""
        known = self.ids[start:]
        if start <= len(self.ids) and list(token_ids[: len(known)]) == known:
            self.proposal = tuple(token_ids[len(known) :])[: self.max_num_tokens - len(self.ids) - 1]

    def correct(self, start: int, token_ids: Sequence[int], num_new_tokens: int, num_ahead: int) -> None:
        """Replace what a draft wrote behind ``start`` by what its target confirmed, and set a new goal.

        What it wrote ahead stands if it agrees with all that is confirmed.
        """
        start = min(start, len(self.ids))
        known, num_told = self.ids[start:], start + len(token_ids)
        num_same = next(
            (i for i, (a, b) in enumerate(zip(known, token_ids, strict=False)) if a != b),
            min(len(known), len(token_ids)),
        )
        if num_same < len(token_ids) or num_told < self.num_known:
            self.ids[start:] = token_ids
            self.num_computed = min(self.num_computed, start + num_same, num_told - 1)
        self.num_known = num_told
        self.num_to_answer = min(num_told + num_new_tokens, self.max_num_tokens)
        self.goal = min(num_told + num_new_tokens + num_ahead, self.max_num_tokens)

    def draft(self, acceptance: float) -> Delta | None:
        """Write one drafted token; a delta with all of them once there are as many as were asked for."""
        position = len(self.ids)
        is_right = is_drafted_right(self.params.seed, position, acceptance)
        self.num_computed = position
        self.ids.append((token_at(self.params.seed, position, self.vocab_size) + (not is_right)) % self.vocab_size)
        return self.drafted() if len(self.ids) >= self.num_to_answer else None

    def second_choice(self, position: int, acceptance: float, second_acceptance: float) -> int:
        """What a draft would have written at a position in place of its own."""
        token = token_at(self.params.seed, position, self.vocab_size)
        if is_drafted_right(self.params.seed, position, acceptance):
            return (token + 1) % self.vocab_size
        is_right = _hash(self.params.seed, position, b"second") < second_acceptance * 2**64
        return token if is_right else (token + 2) % self.vocab_size

    def drafted(self) -> Delta:
        """What a draft wrote behind what its target confirmed."""
        start = self.num_known - self.num_prompt
        return Delta(request_id=self.request_id, start=start, token_ids=tuple(self.ids[self.num_known :]))

    def verify(self, now: float) -> Delta:
        """Write what a target emits in one forward: the proposal as far as it is right, and one token more."""
        first, start, proposal, self.proposal = len(self.ids), self.num_emitted, self.proposal, ()
        num_accepted = 0
        for token_id in (*proposal, None):
            self.ids.append(token_at(self.params.seed, len(self.ids), self.vocab_size))
            if token_id != self.ids[-1]:
                break
            num_accepted += 1
        self.num_computed = len(self.ids) - 1
        has_logprobs, has_prompt_logprobs = self.params.logprobs is not None, self.params.prompt_logprobs is not None
        return Delta(
            request_id=self.request_id,
            start=start,
            token_ids=tuple(self.ids[first:]),
            num_drafted=len(proposal),
            num_accepted=num_accepted,
            logprobs=_certain(len(self.ids) - first) if has_logprobs else None,
            prompt_logprobs=_certain(self.num_prompt - 1) if has_prompt_logprobs and not start else None,
            finish_reason=self.reason(now),
        )

    def reason(self, now: float) -> FinishReason | None:
        """Why the sequence ends here, None where it goes on. Its text is made up, so nothing in it ends it."""
        if len(self.ids) >= self.max_num_tokens:
            return FinishReason.LENGTH
        return FinishReason.TIME if now > self.deadline else None


def token_at(seed: int, position: int, vocab_size: int) -> int:
    """The token that a target emits at an absolute position."""
    return _hash(seed, position, b"token") % vocab_size


def is_drafted_right(seed: int, position: int, acceptance: float) -> bool:
    """Whether a draft foresees that token: at each position with this probability, whatever came before."""
    return _hash(seed, position, b"draft") < acceptance * 2**64


def step_seconds(step_times: Sequence[tuple[int, float]], num_tokens: int) -> float:
    """Seconds of a forward over ``num_tokens``: on straight lines between (tokens, seconds), and on behind the last."""
    if not step_times:
        return 0.0
    if num_tokens > step_times[-1][0] and len(step_times) > 1:
        (m0, t0), (m1, t1) = step_times[-2:]
        return t1 + (t1 - t0) / (m1 - m0) * (num_tokens - m1)
    return float(np.interp(num_tokens, [m for m, _ in step_times], [t for _, t in step_times]))


def _certain(count: int) -> tuple[TokenLogprobs, ...]:
    """Log-probabilities of made-up tokens: there was no choice."""
    return (TokenLogprobs(0.0),) * count


def _hash(seed: int, position: int, what: bytes) -> int:
    """64 bits that are the same in every process."""
    data = what + seed.to_bytes(8, "little") + position.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
