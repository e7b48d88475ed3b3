"""How good a draft is, and how many tokens it is asked for where that is pinned. Pure functions and plain state."""

from dataclasses import dataclass
from typing import Literal

Schedule = Literal["constant", "heuristic", "heuristic_transient"]

PRIOR_ACCEPTED = 3.0
PRIOR_REJECTED = 1.0
SEQUENCE_DECAY = 0.97  # a sequence's acceptance drifts with its text: about thirty tokens are remembered
DRAFT_DECAY = 0.995  # ... and that of all its sequences together more slowly


@dataclass
class Acceptance:
    """Counts of right and wrong drafted tokens, older ones forgotten by ``decay``: a Beta posterior with its prior."""

    decay: float = SEQUENCE_DECAY
    num_accepted: float = 0.0
    num_rejected: float = 0.0

    def add(self, num_accepted: int, num_rejected: int) -> None:
        """Enter tokens whose rightness is known; what lies behind a wrong one was never tested."""
        if num_accepted or num_rejected:
            kept = self.decay ** (num_accepted + num_rejected)
            self.num_accepted = self.num_accepted * kept + num_accepted
            self.num_rejected = self.num_rejected * kept + num_rejected

    def forget(self) -> None:
        """Let a step pass in which nothing was tested."""
        self.num_accepted *= self.decay
        self.num_rejected *= self.decay

    def posterior(self, prior_rate: float = PRIOR_ACCEPTED / (PRIOR_ACCEPTED + PRIOR_REJECTED)) -> tuple[float, float]:
        """Return the two parameters of the posterior around a prior of that mean."""
        weight = PRIOR_ACCEPTED + PRIOR_REJECTED
        return self.num_accepted + prior_rate * weight, self.num_rejected + (1.0 - prior_rate) * weight

    @property
    def rate(self) -> float:
        """Mean of the posterior, strictly between 0 and 1."""
        accepted, rejected = self.posterior()
        return accepted / (accepted + rejected)


def run_probabilities(accepted: float, rejected: float, length: int) -> list[float]:
    """Return, for j from 0 to ``length``, the probability that the next j drafted tokens are all right.

    These are moments of the Beta distribution, so a rate that is little known promises more of long runs than its mean.
    """
    found = [1.0]
    for j in range(length):
        found.append(found[-1] * (accepted + j) / (accepted + rejected + j))
    return found


def expected_tokens(rate: float, num_draft_tokens: int) -> float:
    """Return the tokens that a check of k drafts yields, from 1 to k + 1 (Leviathan et al. 2023, eq. 1)."""
    if rate >= 1.0:
        return num_draft_tokens + 1.0
    return float((1.0 - rate ** (num_draft_tokens + 1)) / (1.0 - rate))


def scheduled_length(schedule: Schedule, current: int, num_drafted: int, num_accepted: int) -> int:
    """Return the pinned draft length of the next round, as transformers' ``num_assistant_tokens_schedule`` has it."""
    if schedule == "constant" or num_drafted == 0:
        return current
    return current + 2 if num_accepted == num_drafted else max(1, current - 1)
