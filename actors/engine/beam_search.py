"""Beam searches of one engine: from logits to what goes on, what is found and what is said of it."""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from itertools import groupby

import torch

from actors.engine.beam_group import BeamGroup, Turn
from actors.engine.counters import Counters
from actors.engine.fair_share import FairShare
from actors.engine.request import Delta, FinishReason
from actors.engine.scheduled import Scheduled
from actors.engine.scheduler import Scheduler

SIGN_OF_LIFE = 16  # steps of a search after which it says that it lives


class BeamSearch:
    """All searches that are under way.

    Args:
        scheduler: the engine's.
        counters: the engine's.
        clock: seconds, for ``max_time``.

    Attributes:
        groups: by request id.
        share: how often they may join others' steps.
    """

    def __init__(self, scheduler: Scheduler, counters: Counters, clock: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._counters = counters
        self._clock = clock
        self.groups: dict[str, BeamGroup] = {}
        self.share = FairShare()

    def add(self, group: BeamGroup) -> None:
        """Queue a search."""
        self.groups[group.request_id] = group
        self._scheduler.add(group)

    def end(self, request_id: str) -> None:
        """Drop a search and free its blocks. Unknown ids are ignored."""
        group = self.groups.pop(request_id, None)
        if group is not None:
            self._scheduler.remove(group)

    def fail(self, group: BeamGroup, error: str) -> Delta:
        """End a search that cannot go on."""
        self.end(group.request_id)
        return Delta(request_id=group.request_id, start=0, finish_reason=FinishReason.ERROR, error=error)

    def advance(self, plan: Seq[Scheduled], logits: torch.Tensor) -> list[Delta]:
        """Take the step that a forward has computed.

        Args:
            plan: parts of searches, the beams of each side by side.
            logits: (sum of num_logits, vocab), theirs in turn.
        """
        for item in plan:
            item.sequence.num_computed_tokens = item.span.end
            self._scheduler.publish(item.sequence)
        ready = [item.group for item in plan if item.group is not None and item.span.num_logits]
        groups = [group for group, _ in groupby(ready)]
        if not groups:
            return []
        deltas = []
        for group, turn in zip(groups, self._turns(groups, logits), strict=True):
            if isinstance(turn, str):
                deltas.append(self.fail(group, turn))
            elif turn.is_over:
                self.end(group.request_id)
                found = group.found()
                self._counters.num_generated_tokens += sum(len(beam.token_ids) for beam in found)
                deltas.append(
                    Delta(request_id=group.request_id, start=0, beams=found, finish_reason=found[0].finish_reason)
                )
            else:
                self._scheduler.regroup(group, turn)
                if group.num_steps % SIGN_OF_LIFE == 0:
                    deltas.append(Delta(request_id=group.request_id, start=0, num_searched=SIGN_OF_LIFE))
        return deltas

    def _turns(self, groups: Seq[BeamGroup], logits: torch.Tensor) -> Iterator[Turn | str]:
        """What each search decides; an error's text where it cannot."""
        log_probs = logits.to(torch.float32).log_softmax(dim=-1)
        parts = log_probs.split([len(group.members) for group in groups])
        kept = [_candidates(group, part) for group, part in zip(groups, parts, strict=True)]
        for group, found in zip(groups, kept, strict=True):
            if isinstance(found, str):
                yield found
                continue
            values, places = found
            try:
                yield group.decide(values.to("cpu"), places.tolist(), logits.shape[-1], self._clock())
            except Exception as error:
                yield f"{type(error).__name__}: {error}"


def _candidates(group: BeamGroup, log_probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | str:
    """The continuations to keep, (K,) and (K,), or why there are none: one search's fault must not reach others."""
    try:
        values, places = group.candidates(log_probs)
    except Exception as error:
        return f"logits processor: {type(error).__name__}: {error}"
    if not bool(values.max().isfinite()):
        return "the best continuation has no finite score: every token is ruled out, or the logits are not finite"
    return values, places
