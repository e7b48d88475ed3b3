"""From what a caller asks for to :class:`actors.engine.params.GenerationParams`: defaults, lengths, seeds.

The rules are those of ``transformers.GenerationMixin.generate``: a request's own fields lie over the model's
``generation_config.json``, which lies over global defaults (``top_k`` 50, 20 new tokens); an explicit None
in a request switches a model default off. Free of torch, so that the HTTP door and :class:`cluster.model.ClusterModel`
share it.
"""

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from actors.engine.errors import RequestError
from actors.engine.params import MAX_NUM_BEAMS, GenerationParams

DEFAULT_TOP_K = 50


class NativeModeError(NotImplementedError):
    """The engine does not batch this mode; transformers' own ``generate`` runs it. The message names the mode."""


PARAM_FIELDS = frozenset(GenerationParams.__struct_fields__)

# Only read by sampling; greedy search ignores them, whatever they are.
SAMPLING_FIELDS = frozenset(
    {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
)

# Only read by beam search and beam sampling; others ignore them.
BEAM_FIELDS = frozenset({"num_beams", "length_penalty", "early_stopping"})

# Values at which a field does nothing, so that no processor is built for it.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "min_new_tokens": (0,),
    "temperature": (1.0,),
    "top_k": (0,),
    "top_p": (1.0,),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
}

# Fields of GenerationConfig that change no token here: caches, compilation, the caller's side, beam-only and
# assistant-only settings (the latter steer speed alone, which is the cluster's own business).
IGNORED_FIELDS = frozenset(
    {
        "max_length", "use_cache", "cache_implementation", "cache_config", "max_cache_len", "return_legacy_cache",
        "compile_config", "disable_compile", "prefill_chunk_size", "continuous_batching_config", "low_memory",
        "bos_token_id", "pad_token_id", "decoder_start_token_id",
        "num_return_sequences", "return_dict_in_generate",
        "num_beam_groups", "diversity_penalty",
        "is_assistant", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind",
        "target_lookbehind", "transformers_version", "_from_model_config", "_commit_hash",
    }
)  # fmt: skip

# Fields that ask for a mode which the engine does not batch, each with the mode's name.
NATIVE_MODES: dict[str, str] = {
    "constraints": "constrained beam search",
    "force_words_ids": "constrained beam search",
    "dola_layers": "DoLa decoding",
    "assistant_ensemble_weight": "lossy speculative decoding",
    "speculation_type": "speculation by type",
    "use_mtp": "multi-token prediction",
    "watermarking_config": "watermarking",
    "token_healing": "token healing",
}
NATIVE_OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")

# Fields that decide whether transformers' own ``generate`` has to run a call.
NATIVE_FIELDS = frozenset(NATIVE_MODES) | frozenset(NATIVE_OUTPUTS) | {"num_beams", "penalty_alpha", "guidance_scale"}

KNOWN_FIELDS = PARAM_FIELDS | IGNORED_FIELDS | NATIVE_FIELDS


def resolve_params(
    defaults: Mapping[str, Any],
    overrides: Mapping[str, Any],
    *,
    num_prompt_tokens: int | None = None,
    can_search: bool = False,
) -> GenerationParams:
    """Merge a request's fields over a model's defaults.

    Args:
        defaults: the model's generation defaults; None values and names unknown here are passed over.
        overrides: the request's own fields, under ``GenerationConfig``'s names or this cluster's (``seed``,
            ``logit_bias``, ...).
        num_prompt_tokens: length of the prompt, padding included, which ``max_length`` and ``min_length`` count too.
        can_search: whether the caller takes several beams of a request, all at its end, in place of its tokens.

    Raises:
        RequestError: an unknown name, a wrong type or a value out of bounds; names the field.
        NativeModeError: a mode that the engine does not batch; names the mode.
    """
    for name in overrides:
        if name not in KNOWN_FIELDS:
            raise _unknown(name)
    merged = {name: value for name, value in defaults.items() if name in KNOWN_FIELDS and value is not None}
    merged.update({name: _plain(value) for name, value in overrides.items()})
    do_sample = merged.get("do_sample") is True
    if do_sample:
        merged.setdefault("top_k", DEFAULT_TOP_K)
    _refuse_native(merged, do_sample)
    has_beams = merged.get("num_beams") not in (None, 1)
    if has_beams:
        _refuse_native_beams(merged, do_sample, can_search=can_search)
    unread = (frozenset() if do_sample else SAMPLING_FIELDS) | (frozenset() if has_beams else BEAM_FIELDS)
    fields = {
        name: _convert(name, value)
        for name, value in merged.items()
        if name in PARAM_FIELDS and value is not None and name not in unread
    }
    fields = {name: value for name, value in fields.items() if not _is_neutral(name, value)}
    params = _validated(fields)
    _check_forced(params)
    if params.grammar is not None:
        from actors.engine.grammar_check import check_grammar  # a native library that few requests need

        check_grammar(params.grammar)
    return _with_lengths(params, merged, num_prompt_tokens)


def sequence_seed(seed: int, index: int) -> int:
    """Seed of the ``index``-th sequence of a call whose seed is ``seed``; the 0th keeps it. Both from 0, below 2^63.

    The finalizer of SplitMix64 (Steele, Lea, Flood 2014) over seed + index * golden ratio.
    """
    if index == 0:
        return seed
    mask = (1 << 64) - 1
    z = (seed + index * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) & ((1 << 63) - 1)


def _unknown(name: str) -> RequestError:
    close = difflib.get_close_matches(name, KNOWN_FIELDS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return RequestError(f"{name}: no such generation parameter{hint}", field=name)


def _refuse_native(merged: Mapping[str, Any], do_sample: bool) -> None:
    alpha = merged.get("penalty_alpha")
    if alpha and not do_sample and (merged.get("top_k", DEFAULT_TOP_K) or 0) > 1:
        raise NativeModeError(f"contrastive search (penalty_alpha={alpha}) is not batched by the engine")
    scale = merged.get("guidance_scale")
    if scale is not None and scale != 1:
        raise NativeModeError(f"classifier-free guidance (guidance_scale={scale}) is not batched by the engine")
    for name in ("prompt_lookup_num_tokens", "assistant_early_exit"):
        if merged.get(name) and merged.get("use_cache") is False:
            raise NativeModeError(f"{name} without a cache (use_cache=False) is not batched by the engine")
    for name, mode in NATIVE_MODES.items():
        value = merged.get(name)
        if value is not None and value is not False:
            raise NativeModeError(f"{mode} ({name}) is not batched by the engine")
    if merged.get("return_dict_in_generate") is True:
        for name in NATIVE_OUTPUTS:
            if merged.get(name):
                raise NativeModeError(f"{name} is not an output of the engine")


def _refuse_native_beams(merged: Mapping[str, Any], do_sample: bool, *, can_search: bool) -> None:
    """Beams that the engine does not search for, or the caller could not take."""
    num_beams, mode = merged["num_beams"], "beam sampling" if do_sample else "beam search"
    if not can_search:
        raise NativeModeError(f"{mode} (num_beams={num_beams}) is not served here")
    if not isinstance(num_beams, int) or not 1 < num_beams <= MAX_NUM_BEAMS:
        raise NativeModeError(f"{mode} with num_beams={num_beams!r} is not batched by the engine")
    # A penalty on the prompt's tokens falls on some of the beams alone in transformers: its own code may answer for it.
    neutral = {"num_beam_groups": 1, "low_memory": False, "encoder_repetition_penalty": 1.0}
    for name in (*neutral, "prompt_lookup_num_tokens", "assistant_early_exit"):
        if merged.get(name) not in (None, neutral.get(name)):
            raise NativeModeError(f"{mode} with {name} is not batched by the engine")


def _with_lengths(
    params: GenerationParams, merged: Mapping[str, Any], num_prompt_tokens: int | None
) -> GenerationParams:
    """Say all lengths in new tokens, as far as the prompt's length is known; the ``*_new_tokens`` fields win."""
    changes: dict[str, Any] = {}
    if merged.get("max_new_tokens") is None and merged.get("max_length") is not None:
        changes["max_new_tokens"] = _room(merged["max_length"], num_prompt_tokens)
    if num_prompt_tokens is not None:
        if params.min_length is not None:
            changes["min_length"] = None
            if params.min_new_tokens is None and params.min_length > num_prompt_tokens:
                changes["min_new_tokens"] = params.min_length - num_prompt_tokens
        if num_prompt_tokens > 1:
            changes["forced_bos_token_id"] = None  # forced behind a prompt of one token only
    return msgspec.structs.replace(params, **changes)


def _room(max_length: Any, num_prompt_tokens: int | None) -> int:
    if isinstance(max_length, bool) or not isinstance(max_length, int):
        raise RequestError(f"max_length: expected an integer, but it is {max_length!r}", field="max_length")
    if num_prompt_tokens is None:
        raise RequestError(
            "max_length counts the prompt, whose length is not known here: give max_new_tokens", field="max_length"
        )
    if num_prompt_tokens >= max_length:
        raise RequestError(
            f"Input length of input_ids is {num_prompt_tokens}, but `max_length` is set to {max_length}: "
            "raise `max_length` or, better, set `max_new_tokens`",
            field="max_length",
            limit=str(max_length),
        )
    return max_length - num_prompt_tokens


def _plain(value: Any) -> Any:
    """Tensors and arrays as Python numbers or lists; everything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _convert(name: str, value: Any) -> Any:
    """The spellings that transformers and JSON allow, in the one form that ``GenerationParams`` has."""
    if name != "sequence_bias" and not _is_finite(value):  # there -inf rules a sequence out; the engine refuses others
        raise RequestError(f"{name}: finite numbers are needed, but it is {value!s:.80}", field=name)
    match name:
        case "eos_token_id" | "forced_eos_token_id" if isinstance(value, int):
            # Models without an eos token spell that as a negative id; no token has one.
            return (value,) if value >= 0 or name == "forced_eos_token_id" else ()
        case "stop_strings" if isinstance(value, str):
            return (value,)
        case "sequence_bias" if isinstance(value, Mapping):
            return tuple((ids, bias) for ids, bias in value.items())
        case "logit_bias" if isinstance(value, Mapping):
            return {_token_id(name, key): bias for key, bias in value.items()}
    return value


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return _is_finite(list(value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _token_id(name: str, key: Any) -> int:
    try:
        return int(key)
    except (TypeError, ValueError):
        raise RequestError(f"{name}: token ids are integers, but one is {key!r}", field=name) from None


def _is_neutral(name: str, value: Any) -> bool:
    return not isinstance(value, bool) and value in NEUTRAL.get(name, ())


def _validated(fields: Mapping[str, Any]) -> GenerationParams:
    try:
        return msgspec.convert(fields, GenerationParams)
    except msgspec.ValidationError as error:
        text = str(error)
        path = re.search(r"`\$\.(\w+)", text)
        field = path.group(1) if path else ""
        bound = re.search(r"(?:>=|<=|>|<) ([-\d.e+]+)", text)
        given = f", but it is {fields[field]!s:.80}" if field in fields else ""
        message = re.sub(r" - at `.*$", "", text)
        raise RequestError(
            f"{field}: {message[:1].lower()}{message[1:]}{given}", field=field, limit=bound.group(1) if bound else ""
        ) from None


def _check_forced(params: GenerationParams) -> None:
    """Forcing only tokens that are suppressed would leave no token at all."""
    suppressed = set(params.suppress_tokens or ())
    bos = () if params.forced_bos_token_id is None else (params.forced_bos_token_id,)
    for name, forced in (("forced_bos_token_id", bos), ("forced_eos_token_id", params.forced_eos_token_id or ())):
        if forced and suppressed.issuperset(forced):
            raise RequestError(f"{name}: every token in it is also in suppress_tokens", field=name)
