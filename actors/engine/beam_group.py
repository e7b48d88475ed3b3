"""The beams of one request: sequences that are scheduled, preempted and ended as one.

A search begins as one sequence, its prompt. With the first step it becomes ``num_beams``, which share the blocks of
what they have in common; from then on each step lets every beam go on from one of those before, so that some fork and
others end. Only the newest id of each beam is computed in a step. After a preemption the common beginning is computed
once, by the first beam, and handed to the others.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import msgspec
import torch

from actors.engine.beams import HOPELESS, BeamRules, BeamScores, choose, draw, keep_best
from actors.engine.params import GenerationParams
from actors.engine.request import Beam, FinishReason, Request
from actors.engine.sampler import SamplerState
from actors.engine.sequence import Sequence, Status
from actors.engine.stopping import StopState


@dataclass(frozen=True, slots=True)
class Continuation:
    """A beam and what may follow it.

    Attributes:
        parent: the beam, 0 to num_beams - 1.
        token_id: behind it.
        reason: why it would end there, None where it goes on.
    """

    parent: int
    token_id: int
    reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class Turn:
    """What a step of a search has come to: the beams of the next one, and whether there is none."""

    heirs: list[Continuation]
    is_over: bool


_NOTHING = Beam((), HOPELESS, (), FinishReason.STOP)


class BeamGroup:
    """One beam search, or beam sampling, in the engine.

    Attributes:
        members: its sequences, in the order of its beams; a single one before the first step.
        num_steps: tokens that its beams have behind the prompt.
    """

    def __init__(self, request: Request, sampler: SamplerState, stopping: StopState) -> None:
        self.request_id = request.request_id
        self.params: GenerationParams = request.params
        self.sampler = sampler
        self.stopping = stopping
        self.status = Status.WAITING
        self.num_steps = 0
        self._request = request
        self._num_made = 0
        self._num_prompt = len(request.prompt_token_ids)
        self._rules = BeamRules.of(request.params, stopping.max_num_tokens - self._num_prompt)
        self._scores = BeamScores.begin(request.params.num_beams)
        self.members = [self._begin(())]
        self._origins: list[list[int]] = [[]]  # of each member's tokens, the beams that they were found behind
        self._finished = [_NOTHING] * request.params.num_beams  # the scores lie in _scores

    @property
    def can_run(self) -> bool:
        """Whether it may take part in steps: nothing holds it back."""
        return True

    @property
    def is_draft(self) -> bool:
        """Whether it only proposes: a search never does."""
        return False

    @property
    def num_missing_tokens(self) -> int:
        """Ids of all beams that lack keys and values."""
        return sum(member.num_missing_tokens for member in self.members)

    def num_common_tokens(self) -> int:
        """Leading ids that all beams share and whose keys and values one of them may compute for all."""
        first, *others = (member.token_ids for member in self.members)
        limit = len(first) - 1
        return min((_num_equal(first, other, limit) for other in others), default=limit)

    def candidates(self, log_probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The continuations to keep, their accumulated log-probabilities (K,) and places (K,) in (B * V).

        Args:
            log_probs: (members, V) float32, the log-softmax of their logits; the caller has no more use for it.

        Raises:
            Exception: whatever a logits processor raises.
        """
        if not self.sampler.is_plain:
            ids = [member.token_ids for member in self.members]
            processors = self.sampler.processors(log_probs.device)
            log_probs = processors(torch.tensor(ids, device=log_probs.device), log_probs)
        log_probs = log_probs.expand(self._rules.num_beams, -1)  # before the first step all beams are the prompt
        running = self._scores.running.to(log_probs.device)
        if self.params.do_sample:
            position = len(self.members[0].token_ids)
            return draw(log_probs, running, self._rules.num_kept, self.params.seed, position)
        return keep_best(log_probs, running, self._rules.num_kept)

    def decide(self, values: torch.Tensor, places: Seq[int], vocab_size: int, now: float) -> Turn:
        """Take the step that :meth:`candidates` has prepared.

        Args:
            values: (K,) float32 on the CPU.
            places: K places in (B * V).
            vocab_size: V.
            now: seconds, for ``max_time``.
        """
        self.num_steps += 1
        kept = [self._continue(place // vocab_size, place % vocab_size, now) for place in places]
        is_end = torch.tensor([each.reason is not None for each in kept])
        choice = choose(self._scores, values, is_end, self.num_steps, self._rules)
        size = self._rules.num_beams
        self._finished = [
            self._finished[place] if place < size else self._end(kept[place - size])
            for place in choice.finished.tolist()
        ]
        self._scores = choice.scores
        return Turn([kept[place] for place in choice.running.tolist()], choice.is_over)

    def found(self) -> tuple[Beam, ...]:
        """What has ended so far, best first; a place that nothing fills has no tokens and a hopeless score."""
        scores = self._scores.finished.tolist()
        return tuple(
            msgspec.structs.replace(beam, score=score) for beam, score in zip(self._finished, scores, strict=True)
        )

    def go_on(self, turn: Turn) -> list[tuple[Sequence, Sequence]]:
        """Make the continuations the beams.

        The first heir of a beam takes its place. Returns each other one behind the beam whose blocks it has to share,
        all still without their newest ids, which :meth:`append` adds.
        """
        before, origins = self.members, self._origins
        forks: list[tuple[Sequence, Sequence]] = []
        self.members, self._origins = [], []
        for heir in turn.heirs:
            parent = before[min(heir.parent, len(before) - 1)]
            member = parent
            if any(other is parent for other in self.members):
                member = self._begin(tuple(parent.token_ids[self._num_prompt :]))
                forks.append((parent, member))
            self.members.append(member)
            self._origins.append([*origins[min(heir.parent, len(before) - 1)], heir.parent])
        return forks

    def append(self, turn: Turn) -> None:
        """Add the newest id to each beam."""
        for member, heir in zip(self.members, turn.heirs, strict=True):
            member.token_ids.append(heir.token_id)
            member.num_final_tokens = member.num_tokens

    def _begin(self, emitted: tuple[int, ...]) -> Sequence:
        self._num_made += 1
        request = msgspec.structs.replace(
            self._request, request_id=f"{self.request_id}/{self._num_made}", emitted_token_ids=emitted
        )
        return Sequence(request, self.sampler, self.stopping, is_draft=False)

    def _continue(self, parent: int, token_id: int, now: float) -> Continuation:
        ids = [*self.members[min(parent, len(self.members) - 1)].token_ids, token_id]
        return Continuation(parent, token_id, self.stopping.check(ids, len(ids), now))

    def _end(self, continuation: Continuation) -> Beam:
        if continuation.reason is None:
            return _NOTHING  # it goes on, and was only chosen for want of others
        parent = min(continuation.parent, len(self.members) - 1)
        return Beam(
            token_ids=(*self.members[parent].token_ids[self._num_prompt :], continuation.token_id),
            score=0.0,
            beam_indices=(*self._origins[parent], continuation.parent),
            finish_reason=continuation.reason,
        )


def _num_equal(first: Seq[int], other: Seq[int], limit: int) -> int:
    return next((i for i in range(limit) if first[i] != other[i]), limit)
