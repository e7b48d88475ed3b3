"""Who writes ahead of a target's sequence: the seam between rounds and drafters that need no actor.

A request is drafted for by one of these, and which one never shows in its tokens (DESIGN, rule 2):

- a draft model in an actor of its own, which is asked in messages (:mod:`actors.rounds`);
- a :class:`Drafter` at the target, which is asked in a call (:mod:`actors.prompt_lookup`);
- the target's engine itself, with its first layers (:mod:`actors.engine.early_exit`);
- nobody.
"""

from collections.abc import Sequence
from typing import Protocol

from actors.engine.params import GenerationParams
from actors.prompt_lookup import PromptLookup

NO_DRAFT = "none"  # as assistant_model: decode plainly
AT_TARGET = "\x1ftarget"  # in place of a draft's name: the target's own drafters


class Drafter(Protocol):
    """Writes ahead of one sequence, at its target and at once."""

    def propose(self, token_ids: Sequence[int]) -> Sequence[int]:
        """Return ids that may follow.

        Args:
            token_ids: all confirmed ids of the sequence, which only ever grow from one call to the next.
        """


def local_drafter(params: GenerationParams) -> Drafter | None:
    """The drafter at the target that a request asks for; None where a draft model, or nobody, is to run ahead."""
    if params.prompt_lookup_num_tokens is None or params.num_assistant_tokens == 0 or params.assistant_early_exit:
        return None
    return PromptLookup(params.prompt_lookup_num_tokens, params.max_matching_ngram_size)


def wants_draft(params: GenerationParams) -> bool:
    """Whether a draft model is to run ahead of a request."""
    is_plain = params.num_assistant_tokens == 0 or params.assistant_model == NO_DRAFT or params.has_beams
    return not is_plain and params.prompt_lookup_num_tokens is None and params.assistant_early_exit is None
