"""How texts are run to be measured."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is asked, how often.

    Attributes:
        max_new_tokens: of each text.
        temperature: 0 is greedy.
        seed: of sampled texts; those of one prompt share theirs.
        draft_lengths: fixed ones that are measured, beside the cluster's own choice.
        repeats: turns of each setting that count.
        concurrency: requests at a time.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    draft_lengths: tuple[int, ...] = (1, 2, 3, 4, 6)
    repeats: int = 2
    concurrency: int = 1

    @property
    def greedy(self) -> dict[str, Any]:
        """Generation parameters without sampling."""
        return {"max_new_tokens": self.max_new_tokens, "do_sample": False}

    @property
    def fields(self) -> dict[str, Any]:
        """Generation parameters: sampled, unless the temperature is 0."""
        return self.greedy | ({"do_sample": True, "temperature": self.temperature} if self.temperature else {})
