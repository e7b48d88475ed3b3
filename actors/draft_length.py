"""How many tokens a draft proposes ahead of a sequence: pure functions of acceptance, load and measured times.

A round of draft length k costs ``V(n * (k + 1)) + R(k)`` seconds for n sequences, where V is the target's time for a
forward of so many rows and R the time from asking the draft to its answer. It yields ``E(a, k)`` tokens a sequence,
the expected length of an accepted run plus the target's own token (Leviathan, Kalman, Matias 2023, equation 1). The
best k maximizes tokens a second; at high load the rows dominate, and it falls to 0 on its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

PRIOR_ACCEPTED = 3.0
PRIOR_REJECTED = 1.0
DECAY = 0.9  # a sequence's acceptance drifts with its text: about ten rounds are remembered
PROBE_INTERVAL = 32  # plain steps after which a sequence at draft length 0 tries one draft token again
MIN_GAIN = 1.02  # drafting must promise this much over plain decoding, or noise decides


@dataclass
class Acceptance:
    """Beta posterior of one sequence's acceptance rate; the prior is that of a fair draft."""

    num_accepted: float = 0.0
    num_rejected: float = 0.0

    def add(self, num_drafted: int, num_accepted: int) -> None:
        """Enter one round. What lies behind the first rejection was never tested and does not count."""
        if num_drafted:
            self.num_accepted = self.num_accepted * DECAY + num_accepted
            self.num_rejected = self.num_rejected * DECAY + (num_accepted < num_drafted)

    @property
    def rate(self) -> float:
        """Mean of the posterior, strictly between 0 and 1."""
        accepted = self.num_accepted + PRIOR_ACCEPTED
        return accepted / (accepted + self.num_rejected + PRIOR_REJECTED)


def expected_tokens(rate: float, num_draft_tokens: int) -> float:
    """Return the tokens a round is expected to yield, from 1 (nothing accepted) to k + 1."""
    if rate >= 1.0:
        return num_draft_tokens + 1.0
    return float((1.0 - rate ** (num_draft_tokens + 1)) / (1.0 - rate))


def best_draft_length(
    rate: float,
    num_sequences: int,
    max_num_draft_tokens: int,
    verify_time: Callable[[float], float],
    round_time: Callable[[float], float],
) -> int:
    """Return the draft length of highest expected goodput; 0 where drafting does not pay.

    Args:
        rate: acceptance rate a token.
        num_sequences: sequences that share the target's forward.
        max_num_draft_tokens: upper bound.
        verify_time: seconds of a target's forward of so many rows.
        round_time: seconds from asking a draft for so many tokens to its answer.
    """
    rows = max(1, num_sequences)
    best, best_goodput = 0, MIN_GAIN / max(verify_time(rows), 1e-9)
    for k in range(1, max_num_draft_tokens + 1):
        goodput = expected_tokens(rate, k) / max(verify_time(rows * (k + 1)) + round_time(k), 1e-9)
        if goodput > best_goodput:
            best, best_goodput = k, goodput
    return best


def draft_length(
    *,
    pinned: int | None,
    adapted: int,
    num_plain_steps: int,
    num_remaining_tokens: int,
) -> int:
    """Return the draft length for a sequence's next round.

    Args:
        pinned: what the request or the cluster asks for; None leaves it to ``adapted``.
        adapted: the policy's choice.
        num_plain_steps: steps of this sequence since it was last drafted. Now and then one token is drafted even where
            it should not pay, or a choice of 0 could never be unlearnt.
        num_remaining_tokens: tokens that the sequence may still emit. The target adds one of its own to what it
            accepts, so drafting more than one fewer is waste.
    """
    wanted = pinned if pinned is not None else adapted
    if pinned is None and wanted == 0 and num_plain_steps >= PROBE_INTERVAL:
        wanted = 1
    return max(0, min(wanted, num_remaining_tokens - 1))
