"""From a ``/generate`` request to the job that answers it: in the engine, or by transformers' own code."""

from collections.abc import Mapping
from typing import Any

from actors.engine.errors import RequestError
from cluster.generation import NATIVE_OUTPUTS, NativeModeError
from serve_app.beam_job import BeamJob
from serve_app.choices import Choice
from serve_app.cluster_view import ModelCard
from serve_app.errors import not_acceptable
from serve_app.gateway import Gateway, new_id
from serve_app.generation_job import GenerationJob
from serve_app.generations import PARAM_NAMES, GenerateRequest, Ids
from serve_app.native_call_job import NativeCallJob
from serve_app.native_plan import check_rows, plan_call
from serve_app.prompts import Prompt, read_prompts
from serve_app.response_format import check_form
from serve_app.sampling import check_limit, draw_seed, pad_token_id, plan
from serve_app.text import TextRules

Job = GenerationJob | BeamJob | NativeCallJob


async def prepare_generation(
    gateway: Gateway, data: GenerateRequest, given: frozenset[str], *, takes_tensors: bool
) -> Job:
    """Check a request and plan its sequences.

    Args:
        gateway: onto the cluster.
        data: the request.
        given: the names that its body spelt out.
        takes_tensors: whether the answer can carry tensors.

    Raises:
        RequestError: names the field.
        ApiError: the same, with a status of its own.
    """
    gateway = gateway.of(data.model)
    card = await gateway.card()
    check_limit("num_return_sequences", data.num_return_sequences, gateway.limits.max_n)
    _check_outputs(data, takes_tensors)
    prompts = await _read(gateway, card, data.prompt, data.input_ids, ("prompt", "input_ids"))
    if not prompts:
        raise RequestError("prompt: give either prompt or input_ids, one of them", field="prompt")
    overrides: dict[str, Any] = {name: getattr(data, name) for name in PARAM_NAMES & given}
    # In JSON a search has its scores anyway.
    overrides["return_dict_in_generate"] = takes_tensors and any(overrides.get(name) for name in NATIVE_OUTPUTS)
    num_beams = overrides.get("num_beams", gateway.defaults.get("num_beams")) or 1
    check_limit("num_beams", num_beams, gateway.limits.max_num_beams)
    await check_form(overrides.get("grammar"), "grammar")
    seed = overrides.pop("seed", None)
    seed = draw_seed() if seed is None else seed
    job_id = new_id("gen")
    try:
        if card.is_encoder_decoder:
            raise NativeModeError("an encoder-decoder is not batched by the engine")
        if num_beams > 1:
            check_rows(len(prompts), num_beams, data.num_return_sequences, gateway.limits.max_num_sequences)
        choices = plan(
            job_id,
            prompts,
            num_choices=1 if num_beams > 1 else data.num_return_sequences,
            seed=seed,
            defaults=gateway.defaults,
            overrides=overrides,
            limits=gateway.limits,
            card=card,
            rules=TextRules(include_stop=True),
            can_search=not data.stream,
        )
        job = _in_the_engine(gateway, data, prompts, list(choices), overrides, job_id=job_id, seed=seed)
    except NativeModeError as reason:
        negative = await _read(
            gateway, card, data.negative_prompt, data.negative_prompt_ids, ("negative_prompt", "negative_prompt_ids")
        )
        decoder = await _read(gateway, card, None, data.decoder_input_ids, ("", "decoder_input_ids"))
        call = plan_call(
            gateway,
            card,
            prompts,
            overrides,
            reason=str(reason),
            negative_prompts=negative,
            decoder_prompts=decoder,
            is_streamed=data.stream,
            seed=seed,
        )
        return NativeCallJob(gateway, prompts, call, job_id=job_id, seed=seed)
    _refuse_unused(data)
    return job


def _in_the_engine(
    gateway: Gateway,
    data: GenerateRequest,
    prompts: list[Prompt],
    choices: list[Choice],
    overrides: Mapping[str, Any],
    *,
    job_id: str,
    seed: int,
) -> Job:
    params = choices[0].request.params
    pad = pad_token_id(gateway.defaults, overrides)
    if not params.has_beams:
        return GenerationJob(gateway, prompts, choices, job_id=job_id, seed=seed, pad_token_id=pad)
    if data.num_return_sequences > params.num_beams:
        raise RequestError(
            f"num_return_sequences: {data.num_return_sequences} asked for, but there are {params.num_beams} beams",
            field="num_return_sequences",
            limit=str(params.num_beams),
        )
    return BeamJob(
        gateway,
        prompts,
        choices,
        job_id=job_id,
        seed=seed,
        num_returned=data.num_return_sequences,
        pad_token_id=pad,
        # transformers takes a pad token 0 for none here, and without eos fills up with what is no token.
        fill=(pad or params.eos_token_id[0]) if params.eos_token_id else -1,
    )


def _check_outputs(data: GenerateRequest, takes_tensors: bool) -> None:
    """Raises ApiError 406, or RequestError: tensors in a form of answer that has none."""
    for name in NATIVE_OUTPUTS:
        if not getattr(data, name):
            continue
        if data.stream:
            raise RequestError(f"{name}: not with stream, which carries no tensors", field=name)
        has_beams = data.num_beams is not None and data.num_beams > 1
        if not takes_tensors and not (name == "output_scores" and has_beams):
            raise not_acceptable(name)


def _refuse_unused(data: GenerateRequest) -> None:
    """Raises RequestError for prompts that the engine would not look at."""
    for name in ("negative_prompt", "negative_prompt_ids"):
        if getattr(data, name) is not None:
            raise RequestError(f"{name}: only with a guidance_scale other than 1", field=name)
    if data.decoder_input_ids is not None:
        raise RequestError("decoder_input_ids: this model has no encoder", field="decoder_input_ids")


async def _read(
    gateway: Gateway, card: ModelCard, text: str | list[str] | None, ids: Ids | None, names: tuple[str, str]
) -> list[Prompt]:
    """Prompts that may come as text or as ids; none where neither is given. Raises RequestError where both are."""
    if text is not None and ids is not None:
        raise RequestError(f"{names[0]}: give either {names[0]} or {names[1]}, one of them", field=names[0])
    if text is not None:
        return await read_prompts(gateway, card, text, names[0])
    return [] if ids is None else await read_prompts(gateway, card, ids, names[1])
