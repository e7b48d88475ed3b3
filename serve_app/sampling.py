"""Parameters of the sequences of one HTTP request: defaults resolved, bounds checked, a seed each."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from actors.engine.errors import RequestError
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from cluster.config import LimitsConfig
from cluster.generation import resolve_params, sequence_seed
from serve_app.choices import Choice
from serve_app.cluster_view import ModelCard
from serve_app.gateway import check_ids
from serve_app.prompts import Prompt
from serve_app.text import TextRules

MAX_NUM_PROMPT_LOGPROBS = 2**20  # values that one request may ask for; they are all held until it is answered


def draw_seed() -> int:
    """A seed for a request that brought none."""
    return secrets.randbits(63)


def read_seed(seed: int | None) -> int:
    """A seed of OpenAI's API, which may be negative, as the engine's; one is drawn where there is none."""
    return draw_seed() if seed is None else seed % 2**63


def check_limit(field: str, value: int | None, limit: int) -> None:
    """Raises RequestError where more is asked for than this server gives."""
    if value is not None and value > limit:
        raise RequestError(f"{field}: {value} asked for, but the limit is {limit}", field=field, limit=str(limit))


def check_count(field: str, count: int, limit: int, what: str) -> None:
    """Raises RequestError where a list or a text is longer than this server takes."""
    if count > limit:
        raise RequestError(f"{field}: {count} {what}, but the limit is {limit}", field=field, limit=str(limit))


def pad_token_id(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> int:
    """What fills rows that end early: the pad token, or else the first eos token, or else 0."""
    for name in ("pad_token_id", "eos_token_id"):
        value = overrides[name] if name in overrides else defaults.get(name)
        ids = [] if value is None else [value] if isinstance(value, int) else list(value)
        if ids and ids[0] >= 0:
            return int(ids[0])
    return 0


def plan(
    prefix: str,
    prompts: Sequence[Prompt],
    *,
    num_choices: int,
    seed: int,
    defaults: Mapping[str, Any],
    overrides: Mapping[str, Any],
    limits: LimitsConfig,
    card: ModelCard,
    rules: TextRules,
    can_search: bool = False,
) -> Iterator[Choice]:
    """The sequences of a request, prompt by prompt; the same seed for the same place behind every prompt.

    With beams, which the caller takes where it ``can_search``, a prompt has one choice and a seed of its own.

    Raises RequestError naming the field that is out of bounds. Counts beyond the context are cut to it, so that none
    travels that no engine could hold.
    """
    count = len(prompts) * num_choices
    if count > limits.max_num_sequences:
        raise RequestError(
            f"prompt: {len(prompts)} prompts with {num_choices} answers each are {count} sequences, "
            f"but the limit of one request is {limits.max_num_sequences}",
            field="prompt",
            limit=str(limits.max_num_sequences),
        )
    num_top = overrides.get("prompt_logprobs")
    if num_top is not None:
        num_values = sum(len(prompt.token_ids) for prompt in prompts) * num_choices * (1 + num_top)
        check_count("prompt", num_values, MAX_NUM_PROMPT_LOGPROBS, "log-probabilities of prompts' tokens")
    index = 0
    for prompt in prompts:
        num_prompt_tokens = len(prompt.token_ids)
        params = resolve_params(defaults, overrides, num_prompt_tokens=num_prompt_tokens, can_search=can_search)
        check_params(params, limits, card)
        room = min(params.max_new_tokens, card.max_model_len - num_prompt_tokens)
        for place in range(num_choices):
            number = index if params.has_beams else place
            own = msgspec.structs.replace(params, max_new_tokens=room, seed=sequence_seed(seed, number))
            request = Request(request_id=f"{prefix}-{index}", prompt_token_ids=prompt.token_ids, params=own)
            yield Choice(index=index, request=request, rules=rules)
            index += 1


def check_params(params: GenerationParams, limits: LimitsConfig, card: ModelCard) -> None:
    """Bounds that only this model and this server know: ids in the vocabulary, lengths of lists, logprobs."""
    check_limit("logprobs", params.logprobs, limits.max_logprobs)
    check_limit("prompt_logprobs", params.prompt_logprobs, limits.max_logprobs)
    check_count("stop", len(params.stop_strings), limits.max_num_stop_strings, "stop strings")
    check_count("stop", max(map(len, params.stop_strings), default=0), limits.max_stop_string_chars, "characters")
    check_count("logit_bias", len(params.logit_bias or ()), limits.max_num_logit_biases, "entries")
    bias = params.sequence_bias or ()
    ids: dict[str, Sequence[int]] = {
        "eos_token_id": params.eos_token_id,
        "logit_bias": tuple(params.logit_bias or ()),
        "bad_words_ids": tuple(token_id for word in params.bad_words_ids or () for token_id in word),
        "sequence_bias": tuple(token_id for sequence, _ in bias for token_id in sequence),
        "forced_eos_token_id": params.forced_eos_token_id or (),
        "suppress_tokens": params.suppress_tokens or (),
        "begin_suppress_tokens": params.begin_suppress_tokens or (),
    }
    if params.forced_bos_token_id is not None:
        ids["forced_bos_token_id"] = (params.forced_bos_token_id,)
    for field, values in ids.items():
        check_count(field, len(values), limits.max_num_listed_ids, "token ids")
        check_ids(values, card, field)
