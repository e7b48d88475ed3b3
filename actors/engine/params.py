"""What a request may ask of the engine: the declarative part of ``transformers.GenerationConfig``, with a seed.

A frozen msgspec Struct, so that one definition validates HTTP bodies, travels between actors and documents itself. The
caller's side resolves defaults (model defaults under the request's own fields); the engine takes what it is given.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from actors.engine.grammar import Grammar

MAX_STOP_STRINGS = 64
MAX_TOP_LOGPROBS = 100
MAX_NAME_CHARS = 1024
MAX_NUM_NAMED = 16
MAX_NUM_BEAMS = 64

MAX_INT = 2**31 - 1  # what every tensor, kernel and wire format holds

PositiveInt = Annotated[int, Meta(ge=1, le=MAX_INT)]
NonNegativeInt = Annotated[int, Meta(ge=0, le=MAX_INT)]
TokenId = Annotated[int, Meta(ge=0, le=MAX_INT)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]


class NamedProcessor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A logits processor or stopping criterion by the name that the operator registered, and what it is called with."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    args: dict[str, Any] = {}


NamedProcessors = Annotated[tuple[NamedProcessor, ...], Meta(max_length=MAX_NUM_NAMED)]


class GenerationParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Parameters of one sequence. Names and meanings are those of ``transformers.GenerationConfig`` where it has them.

    ``presence_penalty``, ``frequency_penalty`` and ``logit_bias`` follow OpenAI's API; ``seed`` fixes all randomness;
    ``logprobs`` asks for the log-probabilities of emitted tokens and of that many alternatives (0: emitted ones only).
    ``prompt_logprobs`` asks the same of the prompt's tokens, by the model's own distribution, before any processor.
    ``grammar`` is what the text has to be (:mod:`actors.engine.grammar`).
    ``logits_processors`` and ``stopping_criteria`` name what the operator has registered
    (:mod:`actors.engine.processor_registry`).
    ``num_beams`` above 1 makes the request a beam search (or beam sampling), whose sequences come all at its end.
    ``num_assistant_tokens`` pins the draft length; None leaves it to the cluster, 0 turns drafting off. A pinned length
    follows ``num_assistant_tokens_schedule``, and drafting pauses behind a token that the draft gave a probability
    below ``assistant_confidence_threshold``. ``assistant_model`` names the draft that runs ahead, by its pool; "none"
    is none. ``prompt_lookup_num_tokens`` takes what followed the newest tokens where they stood before in its place, up
    to ``max_matching_ngram_size`` of them, ``assistant_early_exit`` the model's own first layers. None of these ever
    shows in the tokens.
    """

    max_new_tokens: PositiveInt = 20
    min_new_tokens: NonNegativeInt | None = None
    min_length: NonNegativeInt | None = None
    max_time: Annotated[float, Meta(gt=0.0)] | None = None
    eos_token_id: tuple[TokenId, ...] = ()
    stop_strings: Annotated[tuple[str, ...], Meta(max_length=MAX_STOP_STRINGS)] = ()
    ignore_eos: bool = False

    do_sample: bool = False
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    temperature: Annotated[float, Meta(gt=0.0)] | None = None
    top_k: NonNegativeInt | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    min_p: Probability | None = None
    top_h: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    typical_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    epsilon_cutoff: Annotated[float, Meta(ge=0.0, lt=1.0)] | None = None
    eta_cutoff: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None

    repetition_penalty: Annotated[float, Meta(gt=0.0)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] = 0.0
    encoder_repetition_penalty: Annotated[float, Meta(gt=0.0)] | None = None
    no_repeat_ngram_size: NonNegativeInt | None = None
    encoder_no_repeat_ngram_size: NonNegativeInt | None = None
    bad_words_ids: tuple[tuple[TokenId, ...], ...] | None = None
    sequence_bias: tuple[tuple[tuple[TokenId, ...], float], ...] | None = None
    logit_bias: dict[int, float] | None = None
    forced_bos_token_id: TokenId | None = None
    forced_eos_token_id: tuple[TokenId, ...] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: tuple[TokenId, ...] | None = None
    begin_suppress_tokens: tuple[TokenId, ...] | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False

    grammar: Grammar | None = None
    logits_processors: NamedProcessors = ()
    stopping_criteria: NamedProcessors = ()

    num_beams: Annotated[int, Meta(ge=1, le=MAX_NUM_BEAMS)] = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    num_assistant_tokens: Annotated[int, Meta(ge=0, le=64)] | None = None
    num_assistant_tokens_schedule: Literal["constant", "heuristic", "heuristic_transient"] = "constant"
    assistant_confidence_threshold: Probability = 0.0
    assistant_model: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)] | None = None
    prompt_lookup_num_tokens: Annotated[int, Meta(ge=1, le=64)] | None = None
    max_matching_ngram_size: PositiveInt = 2
    assistant_early_exit: PositiveInt | None = None

    @property
    def has_beams(self) -> bool:
        """Whether several sequences are searched for together."""
        return self.num_beams > 1
