"""A sequence's part in the next forward, as the scheduler decides it and the engine carries it out."""

from dataclasses import dataclass

from actors.engine.batch import Span
from actors.engine.beam_group import BeamGroup
from actors.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A sequence and its part of the next forward.

    Of its logits the first ``num_prompt_logits`` are for its prompt; the other ``num_samples`` are decided from.
    ``group`` is the search that it is a beam of; ``copies`` are blocks, (from, to), to be copied before the forward.
    """

    sequence: Sequence
    span: Span
    num_prompt_logits: int = 0
    group: BeamGroup | None = None
    copies: tuple[tuple[int, int], ...] = ()

    @property
    def num_samples(self) -> int:
        """Positions at which a token is chosen."""
        return self.span.num_logits - self.num_prompt_logits
