"""Where two runs of one prompt part, and by how little.

A token is the argmax of its processed score and, where it is sampled, of shared noise. Log-probabilities are those
scores but for a constant, so the margin by which a run preferred its token over the other run's is

::

    margin = (logprob + noise)(own token) - (logprob + noise)(other's token)        in nats, never negative

Runs whose kernels compute in fewer bits may differ where it is next to nothing: a near tie that fell the other way.
"""

from collections.abc import Callable, Sequence

import msgspec

from actors.engine.request import TokenLogprobs
from cluster.bench.runs import Run

Noise = Callable[[int, Sequence[int]], Sequence[float]]
"""From a token's index behind the prompt, and token ids, to the noise of each."""


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """The first token at which two runs of a prompt differ.

    Attributes:
        prompt: which of the prompts.
        index: of the token, behind the prompt.
        plain_token, assisted_token: what each run chose there.
        plain_margin, assisted_margin: by which each run preferred its own; None where it did not list the other's.
    """

    prompt: int
    index: int
    plain_token: int
    assisted_token: int
    plain_margin: float | None = None
    assisted_margin: float | None = None

    @property
    def margin(self) -> float | None:
        """The smaller of the margins that are known."""
        return min((m for m in (self.plain_margin, self.assisted_margin) if m is not None), default=None)


def first_divergence(prompt: int, plain: Run, assisted: Run, noise: Noise) -> Divergence | None:
    """Compare two runs of the ``prompt``-th prompt; None where they are equal to the token."""
    ours, theirs = plain.token_ids, assisted.token_ids
    index = next((i for i in range(min(len(ours), len(theirs))) if ours[i] != theirs[i]), None)
    if index is None:
        return None if len(ours) == len(theirs) else _cut_short(prompt, plain, assisted)
    both = (ours[index], theirs[index])
    extra = dict(zip(both, noise(index, both), strict=True))
    return Divergence(
        prompt=prompt,
        index=index,
        plain_token=both[0],
        assisted_token=both[1],
        plain_margin=_margin(plain.logprobs, index, both[0], both[1], extra),
        assisted_margin=_margin(assisted.logprobs, index, both[1], both[0], extra),
    )


def _cut_short(prompt: int, plain: Run, assisted: Run) -> Divergence:
    """One run is the beginning of the other, which no choice of a token explains; ids are -1 where there is none."""
    index = min(len(plain.token_ids), len(assisted.token_ids))
    tokens = [run.token_ids[index] if index < len(run.token_ids) else -1 for run in (plain, assisted)]
    return Divergence(prompt=prompt, index=index, plain_token=tokens[0], assisted_token=tokens[1])


def _margin(
    logprobs: Sequence[TokenLogprobs], index: int, own: int, other: int, noise: dict[int, float]
) -> float | None:
    if index >= len(logprobs):
        return None
    listed = dict(logprobs[index].top)
    if other not in listed:
        return None
    return (logprobs[index].logprob + noise[own]) - (listed[other] + noise[other])
