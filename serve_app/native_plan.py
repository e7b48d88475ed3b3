"""A ``/generate`` request that transformers' own code runs, checked and planned."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from actors.engine.declared_call import DeclaredCall, Rows
from actors.engine.errors import RequestError
from actors.engine.params import GenerationParams
from cluster.generation import NATIVE_FIELDS, resolve_params
from serve_app.cluster_view import ModelCard
from serve_app.gateway import END_SLACK, Gateway
from serve_app.prompts import Prompt
from serve_app.sampling import check_params, pad_token_id

# What the engine adds to transformers' parameters.
ENGINE_ONLY = (
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "ignore_eos",
    "grammar",
    "logprobs",
    "prompt_logprobs",
)
# Says how far to draft, which is the cluster's business; lengths are resolved to new tokens.
_LEFT_OUT = frozenset(
    {
        *ENGINE_ONLY,
        "logits_processors", "stopping_criteria", "max_length", "assistant_model", "num_assistant_tokens",
        "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    }
)  # fmt: skip


class NativePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A call, and what must be known to make text of its rows.

    Attributes:
        call: what a target is asked.
        params: its lengths and ends, as the engine would have them.
        num_sequences: rows behind each prompt.
        num_before: tokens of each row that are not new.
        pad_token_id: fills rows that end early.
        has_encoder: whether prompts are read by an encoder, and stand in no row.
    """

    call: DeclaredCall
    params: GenerationParams
    num_sequences: int
    num_before: int
    pad_token_id: int
    has_encoder: bool


def plan_call(
    gateway: Gateway,
    card: ModelCard,
    prompts: Sequence[Prompt],
    overrides: Mapping[str, Any],
    *,
    reason: str,
    negative_prompts: Sequence[Prompt],
    decoder_prompts: Sequence[Prompt],
    is_streamed: bool,
    seed: int,
) -> NativePlan:
    """Check a request and plan its call.

    Args:
        gateway: onto the cluster.
        card: of the model.
        prompts: to continue, or for the encoder to read.
        overrides: the request's own parameters.
        reason: why the engine does not run it.
        negative_prompts: none, one for all or one for each prompt.
        decoder_prompts: the same, for the decoder to continue.
        is_streamed: whether tokens are wanted as they come.
        seed: of the whole call.

    Raises:
        RequestError: names the field.
    """
    limits, defaults = gateway.limits, gateway.defaults
    for name in ENGINE_ONLY:
        if overrides.get(name) not in (None, False, 0.0, {}):
            raise RequestError(f"{name}: not served in this mode ({reason})", field=name)
    rows = _rows(prompts)
    decoder_rows = _rows(decoder_prompts) * (len(rows) if len(decoder_prompts) == 1 else 1)
    _check_counts("negative_prompt", negative_prompts, rows)
    _check_counts("decoder_input_ids", decoder_rows, rows)
    if decoder_rows and not card.is_encoder_decoder:
        raise RequestError("decoder_input_ids: this model has no encoder", field="decoder_input_ids")
    num_beams = _effective("num_beams", overrides, defaults) or 1
    num_returned = _effective("num_return_sequences", overrides, defaults) or 1
    check_rows(len(rows), num_beams, num_returned, limits.max_num_sequences)
    if is_streamed:
        _check_streamable(len(rows) * num_returned, num_beams, is_healed=bool(overrides.get("token_healing")))
    num_before = max(map(len, (decoder_rows or ((0,),)) if card.is_encoder_decoder else rows))
    params = resolve_params(_engine_fields(defaults), _engine_fields(overrides), num_prompt_tokens=num_before)
    check_params(params, limits, card)
    params = msgspec.structs.replace(params, max_new_tokens=min(params.max_new_tokens, card.max_model_len - num_before))
    seconds = limits.request_timeout + END_SLACK
    fields = {name: value for name, value in overrides.items() if name not in _LEFT_OUT} | {
        "max_new_tokens": params.max_new_tokens,
        "max_length": None,
        "max_time": min(seconds, overrides.get("max_time") or seconds),
    }
    call = DeclaredCall(
        prompts=rows,
        fields=msgspec.json.decode(msgspec.json.encode(fields)),  # no types of ours, and lists in place of tuples
        negative_prompts=_rows(negative_prompts) or None,
        decoder_prompts=decoder_rows or None,
        logits_processors=params.logits_processors,
        stopping_criteria=params.stopping_criteria,
        seed=seed,
        is_streamed=is_streamed,
        max_output_bytes=limits.max_output_bytes,
    )
    return NativePlan(
        call=call,
        params=params,
        num_sequences=num_returned,
        num_before=num_before,
        pad_token_id=pad_token_id(defaults, overrides),
        has_encoder=card.is_encoder_decoder,
    )


def _rows(prompts: Sequence[Prompt]) -> Rows:
    return tuple(prompt.token_ids for prompt in prompts)


def _engine_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what makes a call transformers' own."""
    return {name: value for name, value in fields.items() if name not in NATIVE_FIELDS}


def _effective(name: str, overrides: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    return overrides[name] if name in overrides else defaults.get(name)


def _check_counts(field: str, given: Sequence[Any], rows: Rows) -> None:
    if len(given) not in (0, 1, len(rows)):
        raise RequestError(
            f"{field}: one for all prompts or one for each of {len(rows)} is needed, but there are {len(given)}",
            field=field,
            limit=str(len(rows)),
        )


def check_rows(num_prompts: int, num_beams: int, num_returned: int, limit: int) -> None:
    """Raises RequestError where a request brings more rows than one may."""
    count = num_prompts * max(num_beams, num_returned)
    if count > limit:
        field = "num_beams" if num_beams > num_returned else "num_return_sequences"
        raise RequestError(
            f"{field}: {num_prompts} prompts with {max(num_beams, num_returned)} rows each are {count}, but the limit "
            f"of one request is {limit}",
            field=field,
            limit=str(limit),
        )


def _check_streamable(num_sequences: int, num_beams: int, *, is_healed: bool) -> None:
    if num_beams > 1:
        raise RequestError(
            "stream: a beam search has its text only at its end; leave stream out, or num_beams", field="stream"
        )
    if is_healed:
        raise RequestError("stream: token_healing rewrites what the prompt ends with first", field="stream")
    if num_sequences > 1:
        raise RequestError(
            f"stream: in this mode one sequence can be streamed, but {num_sequences} are asked for",
            field="stream",
            limit="1",
        )
