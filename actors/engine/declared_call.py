"""A call of transformers' ``generate`` as plain data, as it may come from far away. Free of torch and transformers."""

from dataclasses import dataclass
from typing import Any

import msgspec

from actors.engine.params import NamedProcessor

Rows = tuple[tuple[int, ...], ...]
"""Token ids, a sequence each, without padding."""


class DeclaredCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call that holds no tensor and no callable.

    Attributes:
        prompts: what to continue, or what an encoder reads.
        fields: of ``GenerationConfig``, as JSON has them; None switches a default of the model off.
        negative_prompts: a prompt each, or one for all, for ``guidance_scale``.
        decoder_prompts: what an encoder-decoder's decoder continues; None for its start token.
        logits_processors: named ones.
        stopping_criteria: named ones.
        seed: of torch's generators for the length of the call.
        is_streamed: whether new tokens are reported as they come; of one sequence only.
        max_output_bytes: bound on the tensors of the output, as float32; None for none.
    """

    prompts: Rows
    fields: dict[str, Any]
    negative_prompts: Rows | None = None
    decoder_prompts: Rows | None = None
    logits_processors: tuple[NamedProcessor, ...] = ()
    stopping_criteria: tuple[NamedProcessor, ...] = ()
    seed: int | None = None
    is_streamed: bool = False
    max_output_bytes: int | None = None

    @property
    def wants_attentions(self) -> bool:
        """Whether the model has to keep its attentions."""
        return bool(self.fields.get("output_attentions"))


@dataclass(frozen=True, kw_only=True)
class PlainOutput:
    """One of transformers' ``Generate*Output`` in numpy: arrays, and tuples that nest them as there.

    Names, shapes and order are transformers'; floating-point arrays are float32. A cache is not among the fields.
    """

    sequences: Any
    sequences_scores: Any = None
    beam_indices: Any = None
    scores: Any = None
    logits: Any = None
    attentions: Any = None
    hidden_states: Any = None
    encoder_attentions: Any = None
    encoder_hidden_states: Any = None
    decoder_attentions: Any = None
    cross_attentions: Any = None
    decoder_hidden_states: Any = None
