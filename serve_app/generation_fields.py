"""The declarative fields of ``GenerationConfig`` beyond those of the engine: what transformers' own code runs."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from actors.engine.params import MAX_INT, MAX_STOP_STRINGS, GenerationParams, TokenId
from serve_app.sampling_fields import StopString

CacheKind = Literal["dynamic", "static", "offloaded", "offloaded_static", "quantized", "sliding_window", "hybrid"]
SmallInt = Annotated[int, Meta(ge=1, le=1024)]
MAX_NUM_KEYS = 64


class WatermarkingFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """transformers' ``WatermarkingConfig``, or with ``ngram_len`` and ``keys`` its ``SynthIDTextWatermarkingConfig``.

    Attributes:
        greenlist_ratio: share of the vocabulary that is favoured at each position.
        bias: added to the logits of favoured tokens.
        hashing_key: secret of the hash; who knows it can detect the mark.
        seeding_scheme: what the hash is of.
        context_width: tokens before a position that the hash is of.
        ngram_len, keys, context_history_size, sampling_table_seed, sampling_table_size, skip_first_ngram_calls: of
            SynthID.
    """

    greenlist_ratio: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    bias: float | None = None
    hashing_key: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    seeding_scheme: Literal["lefthash", "selfhash"] | None = None
    context_width: SmallInt | None = None
    ngram_len: Annotated[int, Meta(ge=2, le=64)] | None = None
    keys: Annotated[tuple[int, ...], Meta(min_length=1, max_length=MAX_NUM_KEYS)] | None = None
    context_history_size: Annotated[int, Meta(ge=1, le=65536)] | None = None
    sampling_table_seed: Annotated[int, Meta(ge=0, le=MAX_INT)] | None = None
    sampling_table_size: Annotated[int, Meta(ge=1, le=2**20)] | None = None
    skip_first_ngram_calls: bool | None = None


class GenerationFields(GenerationParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters as ``model.generate`` takes them.

    Attributes:
        num_return_sequences: sequences behind each prompt.
        max_length: the prompt and the new tokens together; ``max_new_tokens`` goes before it.
        num_beams: width of a beam search; 1 is none.
        length_penalty: exponent of the length by which a beam's log-probability is divided.
        early_stopping: when a beam search ends: with as many finished beams as asked for, by a heuristic, or ``never``
            before none can be better.
        guidance_scale: classifier-free guidance away from the negative prompt; 1 is none.
        prompt_lookup_num_tokens: drafts from n-grams of the prompt, so many tokens at a time.
        max_matching_ngram_size: longest n-gram that is looked up.
        assistant_early_exit: drafts from this layer of the model itself, where it was trained for that.
        use_mtp: drafts from the model's multi-token prediction heads.
        assistant_lookbehind, target_lookbehind: taken and without effect.
        watermarking_config: a mark in the choice of tokens.
        token_healing: the prompt's last token is replaced by a longer one where that is likelier.
        output_scores, output_logits, output_attentions, output_hidden_states: tensors beside the text, in an answer of
            type application/x-safetensors or application/msgpack. In JSON a beam search with output_scores has a score
            for each sequence.
        return_dict_in_generate: taken and without effect: every answer has names.
        use_cache: whether keys and values are kept.
        cache_implementation: how they are kept, where transformers' own code runs.
        prefill_chunk_size: tokens of a prompt that are computed at a time there.
        pad_token_id, bos_token_id, decoder_start_token_id: in place of the model's.
    """

    num_return_sequences: Annotated[int, Meta(ge=1, le=MAX_INT)] = 1
    max_length: Annotated[int, Meta(ge=1, le=MAX_INT)] | None = None
    eos_token_id: int | tuple[TokenId, ...] | None = None  # type: ignore[assignment]
    forced_eos_token_id: TokenId | tuple[TokenId, ...] | None = None  # type: ignore[assignment]
    stop_strings: StopString | Annotated[tuple[StopString, ...], Meta(max_length=MAX_STOP_STRINGS)] | None = None  # type: ignore[assignment]

    num_beams: Annotated[int, Meta(ge=1, le=MAX_INT)] | None = None  # type: ignore[assignment]
    length_penalty: float | None = None  # type: ignore[assignment]
    early_stopping: bool | Literal["never"] | None = None  # type: ignore[assignment]
    guidance_scale: float | None = None
    prompt_lookup_num_tokens: SmallInt | None = None
    max_matching_ngram_size: SmallInt | None = None  # type: ignore[assignment]
    assistant_early_exit: Annotated[int, Meta(ge=1, le=MAX_INT)] | None = None
    use_mtp: bool | None = None
    assistant_lookbehind: Annotated[int, Meta(ge=0, le=MAX_INT)] | None = None
    target_lookbehind: Annotated[int, Meta(ge=0, le=MAX_INT)] | None = None
    watermarking_config: WatermarkingFields | None = None
    token_healing: bool | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    return_dict_in_generate: bool | None = None
    use_cache: bool | None = None
    cache_implementation: CacheKind | None = None
    prefill_chunk_size: Annotated[int, Meta(ge=1, le=MAX_INT)] | None = None
    pad_token_id: TokenId | None = None
    bos_token_id: TokenId | None = None
    decoder_start_token_id: TokenId | None = None
