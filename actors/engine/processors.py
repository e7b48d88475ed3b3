"""Logits processors of one sequence: transformers' own classes, in transformers' own order, and the few that are ours.

``GenerationMixin`` builds the list from a ``GenerationConfig``; OpenAI's ``logit_bias``, ``presence_penalty`` and
``frequency_penalty`` are handed to it as custom processors, which it places behind its own processors and before the
temperature. Every processor used here is a pure function of (ids, scores): a list may be called for a prefix with
drafted tokens that are rejected later.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from actors.engine.grammar_mask import GrammarMask
from actors.engine.grammar_state import GrammarState
from actors.engine.params import GenerationParams
from actors.engine.processor_registry import ProcessorRegistry
from actors.engine.warpers import add_to_tokens, penalize_emitted

# Of the same name and meaning in GenerationConfig.
_SHARED_FIELDS = (
    "max_new_tokens",
    "min_new_tokens",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "forced_bos_token_id",
    "remove_invalid_values",
    "renormalize_logits",
)
# The same, as lists.
_LIST_FIELDS = ("forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")
_SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


class LogitBias(LogitsProcessor):
    """Adds a fixed bias to chosen tokens (OpenAI's ``logit_bias``). Ids beyond the vocabulary have no effect."""

    def __init__(self, biases: dict[int, float]) -> None:
        self.biases = biases

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocab) with the biases added."""
        biased = scores.clone()
        add_to_tokens(biased, dict.fromkeys(range(len(scores)), self.biases))
        return biased


class PresenceFrequencyPenalty(LogitsProcessor):
    """Subtracts ``presence + frequency * count`` from every token emitted so far, the prompt not counted (OpenAI)."""

    def __init__(self, presence: float, frequency: float, num_prompt_tokens: int) -> None:
        self.presence = presence
        self.frequency = frequency
        self.num_prompt_tokens = num_prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocab) with the penalties subtracted."""
        emitted = input_ids[:, self.num_prompt_tokens :].tolist()
        penalized = scores.clone()
        penalize_emitted(penalized, {row: (ids, self.presence, self.frequency) for row, ids in enumerate(emitted)})
        return penalized


def min_num_tokens(params: GenerationParams, num_prompt_tokens: int) -> int:
    """Tokens, prompt included, before which no eos may be chosen; ``min_new_tokens`` goes before ``min_length``."""
    if params.min_new_tokens is not None:
        return num_prompt_tokens + params.min_new_tokens
    return params.min_length or 0


def needs_list(params: GenerationParams) -> bool:
    """Whether a sequence uses any processor without a vectorized form (see :mod:`actors.engine.warpers`)."""
    processors = (
        params.encoder_repetition_penalty not in (None, 1.0)
        or params.no_repeat_ngram_size
        or params.encoder_no_repeat_ngram_size
        or params.remove_invalid_values
        or params.renormalize_logits
        or params.logits_processors
    )
    optional = (
        params.bad_words_ids,
        params.sequence_bias,
        params.forced_bos_token_id,
        params.forced_eos_token_id,
        params.exponential_decay_length_penalty,
        params.suppress_tokens,
        params.begin_suppress_tokens,
    )
    warpers = params.do_sample and (
        params.top_h is not None
        or params.typical_p not in (None, 1.0)
        or params.epsilon_cutoff not in (None, 0.0)
        or params.eta_cutoff not in (None, 0.0, 1.0)
    )
    return bool(processors or warpers or any(value is not None for value in optional))


def to_generation_config(params: GenerationParams, num_prompt_tokens: int) -> GenerationConfig:
    """The ``GenerationConfig`` that ``generate`` would work with once it has resolved lengths and special tokens.

    Sampling fields are left out where nothing is sampled, as ``generate`` ignores them there.
    """
    fields = {name: getattr(params, name) for name in _SHARED_FIELDS}
    fields |= {name: list(value) for name in _LIST_FIELDS if (value := getattr(params, name)) is not None}
    if params.do_sample:
        fields |= {name: getattr(params, name) for name in _SAMPLING_FIELDS}
    if params.bad_words_ids is not None:
        fields["bad_words_ids"] = [list(word) for word in params.bad_words_ids]
    if params.sequence_bias is not None:
        fields["sequence_bias"] = [[list(ids), bias] for ids, bias in params.sequence_bias]
    return GenerationConfig(
        do_sample=params.do_sample,
        num_beams=params.num_beams,
        max_length=num_prompt_tokens + params.max_new_tokens,
        min_length=min_num_tokens(params, num_prompt_tokens),
        exponential_decay_length_penalty=params.exponential_decay_length_penalty,
        eos_token_id=list(params.eos_token_id) or None,
        **{name: value for name, value in fields.items() if value is not None},
    )


def build_processors(
    params: GenerationParams,
    prompt_ids: list[int],
    model: PreTrainedModel,
    device: torch.device,
    grammar: GrammarState | None = None,
    registry: ProcessorRegistry | None = None,
) -> LogitsProcessorList:
    """All processors and warpers of one sequence, to be called with its whole prefix (1, n) and scores (1, vocab).

    Those that the request names are made by the ``registry``. The mask of its ``grammar`` is the last processor: behind
    it come the warpers.
    Those of a beam search take all its beams at once, (num_beams, n) and (num_beams, vocab).
    The mask of its ``grammar`` is the last processor: behind it come the warpers.

    Raises:
        ValueError, TypeError: transformers refuses a value; RequestError where the registry does.
    """
    config = to_generation_config(params, len(prompt_ids))
    eos = torch.tensor(params.eos_token_id, device=device) if params.eos_token_id else None
    vars(config)["_eos_token_tensor"] = eos  # the form that generate() prepares and the processors read
    ours = LogitsProcessorList()
    if params.logit_bias:
        ours.append(LogitBias(params.logit_bias))
    if params.presence_penalty or params.frequency_penalty:
        ours.append(PresenceFrequencyPenalty(params.presence_penalty, params.frequency_penalty, len(prompt_ids)))
    if params.logits_processors:
        ours.extend((registry or ProcessorRegistry()).logits_processors(params.logits_processors))
    if grammar is not None:
        ours.append(GrammarMask(grammar))
    build: Callable[..., LogitsProcessorList] = GenerationMixin._get_logits_processor
    return build(
        model,
        generation_config=config,
        input_ids_seq_length=len(prompt_ids),
        encoder_input_ids=torch.tensor([prompt_ids], device=device),
        logits_processor=ours,
        device=str(device),
    )
