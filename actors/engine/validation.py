"""Checks of a request's parameters that need the model, before they reach a running batch."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from actors.engine.errors import RequestError
from actors.engine.params import GenerationParams
from actors.engine.processors import needs_list, to_generation_config

MAX_STOP_STRING_LENGTH = 1_000
MAX_TOKEN_SEQUENCES = 10_000

# Scores are float32: a divisor this small still leaves any logit of a sound model finite.
MIN_SCALE = 1e-30

_SCALES = ("temperature", "repetition_penalty", "encoder_repetition_penalty")
_TOKEN_FIELDS = (
    "eos_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
)


def check_params(params: GenerationParams, vocab_size: int, has_tokenizer: bool = True) -> None:
    """Check parameters against a model.

    Args:
        params: what a request asks for.
        vocab_size: width of the model's logits; every token id must lie below it.
        has_tokenizer: whether the model has one, which stop strings need.

    Raises:
        RequestError: a value is out of range, no number, beyond the vocabulary, or contradicts another; it names the
            field and the limit.
    """
    _check_types(params)
    for name in params.__struct_fields__:
        _check_finite(name, getattr(params, name))
    for name in _SCALES:
        value = getattr(params, name)
        if value is not None and not MIN_SCALE <= value <= 1 / MIN_SCALE:
            raise _refuse(name, f"is {value}", f"{MIN_SCALE} to {1 / MIN_SCALE}")
    for name in _TOKEN_FIELDS:
        value = getattr(params, name)
        _check_ids(name, (value,) if isinstance(value, int) else value or (), vocab_size)
    _check_ids("logit_bias", params.logit_bias or (), vocab_size)
    _check_sequences("bad_words_ids", params.bad_words_ids, vocab_size)
    biased = None if params.sequence_bias is None else [ids for ids, _ in params.sequence_bias]
    _check_sequences("sequence_bias", biased, vocab_size)
    _check_stop_strings(params, has_tokenizer)
    if params.exponential_decay_length_penalty is not None and not params.eos_token_id:
        raise _refuse(
            "exponential_decay_length_penalty",
            "raises the logit of an eos token, but none is given",
            "needs eos_token_id",
        )
    if params.grammar is not None:
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            if getattr(params, name) is not None:
                raise _refuse(name, "would write what the grammar may forbid", "none beside a grammar")
    if needs_list(params):
        _check_combinations(params)


def _check_types(params: GenerationParams) -> None:
    """Types and ranges as the Struct declares them, which only decoding enforces."""
    try:
        msgspec.convert(msgspec.to_builtins(params, str_keys=False), GenerationParams)
    except msgspec.ValidationError as error:
        found = re.search(r"\$\.(\w+)", str(error))
        message = str(error).split(" - at ")[0]
        raise RequestError(str(error), field=found.group(1) if found else "", limit=message) from error


def _check_finite(name: str, value: Any) -> None:
    # A bias of -inf is how transformers rules a sequence out.
    if any(math.isnan(x) or (math.isinf(x) and not (name == "sequence_bias" and x < 0)) for x in _floats(value)):
        raise _refuse(name, "holds a value that is NaN or infinite", "finite numbers")


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        yield from _floats(tuple(value.values()))
    elif isinstance(value, tuple):
        for item in value:
            yield from _floats(item)


def _check_ids(name: str, token_ids: Iterable[int], vocab_size: int) -> None:
    for token in token_ids:
        if not 0 <= token < vocab_size:
            raise _refuse(name, f"names token {token}, which the vocabulary lacks", f"0 to {vocab_size - 1}")


def _check_sequences(name: str, sequences: Iterable[tuple[int, ...]] | None, vocab_size: int) -> None:
    if sequences is None:
        return
    sequences = list(sequences)
    if not 1 <= len(sequences) <= MAX_TOKEN_SEQUENCES:
        raise _refuse(name, f"holds {len(sequences)} sequences", f"1 to {MAX_TOKEN_SEQUENCES}")
    for token_ids in sequences:
        if not token_ids:
            raise _refuse(name, "holds an empty sequence", "at least 1 token a sequence")
        _check_ids(name, token_ids, vocab_size)


def _check_stop_strings(params: GenerationParams, has_tokenizer: bool) -> None:
    if params.stop_strings and not has_tokenizer:
        raise _refuse("stop_strings", "cannot be found without a tokenizer, and the model has none", "none")
    for stop in params.stop_strings:
        if not 1 <= len(stop) <= MAX_STOP_STRING_LENGTH:
            raise _refuse("stop_strings", f"holds a string of {len(stop)} characters", f"1 to {MAX_STOP_STRING_LENGTH}")


def _check_combinations(params: GenerationParams) -> None:
    """What transformers itself refuses, such as forcing a token that is suppressed."""
    try:
        to_generation_config(params, num_prompt_tokens=1)
    except (ValueError, TypeError) as error:
        raise refusal(params, error) from error


def refusal(params: GenerationParams, error: Exception) -> RequestError:
    """What transformers refused, as our error; its field is the first one that transformers names."""
    named = [word for word in re.findall(r"\w+", str(error)) if word in params.__struct_fields__]
    return RequestError(f"generation parameters: {error}", field=named[0] if named else "")


def _refuse(name: str, what: str, limit: str) -> RequestError:
    return RequestError(f"{name} {what} (limit: {limit})", field=name, limit=limit)
