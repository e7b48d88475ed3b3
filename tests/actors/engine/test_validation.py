"""A bad value is refused by name before it can reach a batch."""

import math
from typing import Any

import pytest

from actors.engine.errors import RequestError
from actors.engine.params import GenerationParams
from actors.engine.processors import build_processors
from actors.engine.sampler import SamplerState
from actors.engine.validation import MAX_STOP_STRING_LENGTH, check_params
from tests.actors.engine.sampling_helpers import PROMPT, VOCAB_SIZE, tiny_loaded

NAN = math.nan
INF = math.inf


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", NAN),
        ("temperature", INF),
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", 1e-40),
        ("temperature", "hot"),
        ("top_p", NAN),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("top_k", -1),
        ("max_new_tokens", 0),
        ("max_time", NAN),
        ("seed", -1),
        ("seed", 2**63),
        ("logprobs", 101),
        ("presence_penalty", NAN),
        ("frequency_penalty", 3.0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e38),
        ("eos_token_id", (2, VOCAB_SIZE)),
        ("eos_token_id", (-1,)),
        ("forced_bos_token_id", VOCAB_SIZE),
        ("forced_eos_token_id", (VOCAB_SIZE,)),
        ("suppress_tokens", (VOCAB_SIZE,)),
        ("begin_suppress_tokens", (VOCAB_SIZE,)),
        ("bad_words_ids", ()),
        ("bad_words_ids", ((1,), ())),
        ("bad_words_ids", ((1, VOCAB_SIZE),)),
        ("sequence_bias", ()),
        ("sequence_bias", (((VOCAB_SIZE,), 1.0),)),
        ("sequence_bias", (((1,), NAN),)),
        ("sequence_bias", (((1,), INF),)),
        ("logit_bias", {VOCAB_SIZE: 1.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: -INF}),
        ("exponential_decay_length_penalty", (3, 1.5)),
        ("exponential_decay_length_penalty", (3, NAN)),
        ("stop_strings", ("",)),
        ("stop_strings", ("x" * (MAX_STOP_STRING_LENGTH + 1),)),
        ("stop_strings", ("x",) * 65),
    ],
)
def test_refused(field: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        check_params(GenerationParams(do_sample=True, **{field: value}), VOCAB_SIZE)
    assert caught.value.field == field
    assert caught.value.limit
    assert field in str(caught.value)


def test_stop_strings_without_a_tokenizer() -> None:
    params = GenerationParams(stop_strings=("x",))
    check_params(params, VOCAB_SIZE, has_tokenizer=True)
    with pytest.raises(RequestError, match="tokenizer"):
        check_params(params, VOCAB_SIZE, has_tokenizer=False)


@pytest.mark.parametrize("field", ["forced_bos_token_id", "forced_eos_token_id"])
def test_forcing_what_is_suppressed(field: str) -> None:
    forced: dict[str, Any] = {field: (4,) if field == "forced_eos_token_id" else 4}
    with pytest.raises(RequestError) as caught:
        check_params(GenerationParams(suppress_tokens=(4,), **forced), VOCAB_SIZE)
    assert caught.value.field == field


def test_a_state_that_transformers_refuses() -> None:
    """Even where nobody called check_params, the request is refused instead of the batch failing."""
    with pytest.raises(RequestError, match="bad_words_ids") as caught:
        SamplerState.build(GenerationParams(bad_words_ids=()), len(PROMPT), tiny_loaded(), PROMPT)
    assert caught.value.field == "bad_words_ids"


@pytest.mark.parametrize("do_sample", [False, True])
def test_everything_at_once_is_accepted_and_can_be_built(do_sample: bool) -> None:
    params = GenerationParams(
        max_new_tokens=30,
        min_new_tokens=2,
        max_time=3.0,
        eos_token_id=(2, 3),
        stop_strings=("a",),
        do_sample=do_sample,
        seed=2**63 - 1,
        temperature=0.1,
        top_k=4,
        top_p=1.0,
        min_p=0.0,
        top_h=0.5,
        typical_p=0.9,
        epsilon_cutoff=0.001,
        eta_cutoff=0.001,
        repetition_penalty=1.1,
        presence_penalty=-2.0,
        frequency_penalty=2.0,
        encoder_repetition_penalty=1.2,
        no_repeat_ngram_size=3,
        encoder_no_repeat_ngram_size=4,
        bad_words_ids=((5,),),
        sequence_bias=(((6,), -INF), ((7, 8), 1.0)),
        logit_bias={9: 100.0},
        forced_bos_token_id=1,
        forced_eos_token_id=(2,),
        exponential_decay_length_penalty=(5, 1.1),
        suppress_tokens=(),
        begin_suppress_tokens=(10,),
        remove_invalid_values=True,
        renormalize_logits=True,
        logprobs=100,
    )
    check_params(params, VOCAB_SIZE)
    assert build_processors(params, PROMPT, tiny_loaded().model, tiny_loaded().model.device)


def test_defaults_are_accepted() -> None:
    check_params(GenerationParams(), VOCAB_SIZE, has_tokenizer=False)
