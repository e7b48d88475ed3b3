import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from actors.engine.errors import RequestError
from cluster.generation import KNOWN_FIELDS, resolve_params, sequence_seed


def test_nothing_asked_for_is_greedy_and_20_tokens() -> None:
    params = resolve_params({}, {})
    assert (params.max_new_tokens, params.do_sample, params.top_k) == (20, False, None)


@pytest.mark.parametrize(
    ("defaults", "overrides", "expected"),
    [
        ({}, {"do_sample": True}, {"top_k": 50, "temperature": None, "top_p": None}),
        ({"do_sample": True, "top_k": 20}, {}, {"top_k": 20}),
        ({"do_sample": True, "top_k": 20}, {"top_k": None}, {"top_k": None}),
        ({"do_sample": True}, {"top_k": 0}, {"top_k": None}),
        ({"do_sample": True, "temperature": 0.6}, {"temperature": 1.0}, {"temperature": None}),
        ({"do_sample": True, "temperature": 0.6}, {"do_sample": False}, {"do_sample": False, "temperature": None}),
        ({"do_sample": True, "top_p": None}, {}, {"do_sample": True, "top_p": None}),
        ({"eos_token_id": 2}, {}, {"eos_token_id": (2,)}),
        ({"eos_token_id": [2, 3]}, {"eos_token_id": None}, {"eos_token_id": ()}),
        ({"eos_token_id": [2, 3]}, {"eos_token_id": torch.tensor([4])}, {"eos_token_id": (4,)}),
        ({"eos_token_id": -1}, {}, {"eos_token_id": ()}),
        ({}, {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}, {"repetition_penalty": None}),
        ({}, {"stop_strings": "END"}, {"stop_strings": ("END",)}),
        ({}, {"forced_eos_token_id": 0}, {"forced_eos_token_id": (0,)}),
        ({}, {"sequence_bias": {(1, 2): 3.0}}, {"sequence_bias": (((1, 2), 3.0),)}),
        ({}, {"sequence_bias": [[[1, 2], 3.0]]}, {"sequence_bias": (((1, 2), 3.0),)}),
        ({}, {"logit_bias": {"7": -1}}, {"logit_bias": {7: -1.0}}),
        ({}, {"bad_words_ids": [[1], [2, 3]]}, {"bad_words_ids": ((1,), (2, 3))}),
        ({"custom_field": 3, "num_beams": 1}, {"use_cache": False}, {"max_new_tokens": 20}),
        ({"output_scores": True}, {}, {"max_new_tokens": 20}),
    ],
)
def test_defaults_lie_under_overrides(
    defaults: dict[str, Any], overrides: dict[str, Any], expected: dict[str, Any]
) -> None:
    params = resolve_params(defaults, overrides)
    assert {name: getattr(params, name) for name in expected} == expected


@pytest.mark.parametrize("value", [math.nan, 0.0, -3, "hot"])
def test_greedy_ignores_what_only_sampling_reads(value: Any) -> None:
    assert resolve_params({}, {"temperature": value}) == resolve_params({}, {})


@pytest.mark.parametrize(
    ("lengths", "max_new_tokens", "min_new_tokens"),
    [
        ({"max_length": 30}, 25, None),
        ({"max_length": 30, "max_new_tokens": 4}, 4, None),
        ({"max_new_tokens": 9, "min_length": 8}, 9, 3),
        ({"max_new_tokens": 9, "min_length": 5}, 9, None),
        ({"max_new_tokens": 9, "min_length": 8, "min_new_tokens": 1}, 9, 1),
    ],
)
def test_lengths_that_count_the_prompt(
    lengths: dict[str, int], max_new_tokens: int, min_new_tokens: int | None
) -> None:
    for defaults, overrides in ((lengths, {}), ({}, lengths)):
        params = resolve_params(defaults, overrides, num_prompt_tokens=5)
        assert (params.max_new_tokens, params.min_new_tokens) == (max_new_tokens, min_new_tokens)
        assert params.min_length is None


def test_a_bos_is_forced_behind_one_token_only() -> None:
    forced = {"forced_bos_token_id": 4}
    assert resolve_params({}, forced, num_prompt_tokens=1).forced_bos_token_id == 4
    assert resolve_params({}, forced, num_prompt_tokens=2).forced_bos_token_id is None


@pytest.mark.parametrize(
    ("overrides", "field", "limit"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens", "1"),
        ({"max_new_tokens": -4}, "max_new_tokens", "1"),
        ({"max_new_tokens": "5"}, "max_new_tokens", ""),
        ({"max_new_tokens": True}, "max_new_tokens", ""),
        ({"max_new_tokens": 1.5}, "max_new_tokens", ""),
        ({"min_new_tokens": -1}, "min_new_tokens", "0"),
        ({"max_length": 5}, "max_length", "5"),
        ({"max_length": "5"}, "max_length", ""),
        ({"min_length": "5"}, "min_length", ""),
        ({"do_sample": 1}, "do_sample", ""),
        ({"do_sample": True, "temperature": 0.0}, "temperature", "0.0"),
        ({"do_sample": True, "temperature": math.nan}, "temperature", ""),
        ({"do_sample": True, "top_p": 1.5}, "top_p", "1.0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty", ""),
        ({"seed": -1}, "seed", "0"),
        ({"seed": 2**63}, "seed", str(2**63 - 1)),
        ({"eos_token_id": [-1]}, "eos_token_id", "0"),
        ({"bad_words_ids": [["a"]]}, "bad_words_ids", ""),
        ({"logit_bias": {"a": 1}}, "logit_bias", ""),
        ({"logit_bias": {"1": math.nan}}, "logit_bias", ""),
        ({"stop_strings": ["x"] * 65}, "stop_strings", "64"),
        ({"num_assistant_tokens": 65}, "num_assistant_tokens", "64"),
        ({"suppress_tokens": [1, 2], "forced_eos_token_id": [2]}, "forced_eos_token_id", ""),
        ({"max_new_token": 5}, "max_new_token", ""),
    ],
)
def test_refusals_name_the_field_and_the_limit(overrides: dict[str, Any], field: str, limit: str) -> None:
    with pytest.raises(RequestError, match=field) as caught:
        resolve_params({}, overrides, num_prompt_tokens=5)
    assert (caught.value.field, caught.value.limit) == (field, limit)


def test_a_typing_error_gets_a_hint() -> None:
    with pytest.raises(RequestError, match="did you mean max_new_tokens"):
        resolve_params({}, {"max_new_token": 5})


def test_max_length_needs_the_prompts_length() -> None:
    with pytest.raises(RequestError, match="give max_new_tokens"):
        resolve_params({"max_length": 50}, {})


@pytest.mark.parametrize(
    ("overrides", "mode"),
    [
        ({"num_beams": 4}, "beam search"),
        ({"num_beams": 4, "do_sample": True}, "beam sampling"),
        ({"penalty_alpha": 0.6}, "contrastive search"),
        ({"guidance_scale": 3.0}, "classifier-free guidance"),
        ({"constraints": [1]}, "constrained beam search"),
        ({"force_words_ids": [[1]]}, "constrained beam search"),
        ({"dola_layers": "low"}, "DoLa"),
        ({"prompt_lookup_num_tokens": 3, "use_cache": False}, "prompt_lookup_num_tokens without a cache"),
        ({"assistant_early_exit": 2, "use_cache": False}, "assistant_early_exit without a cache"),
        ({"watermarking_config": {}}, "watermarking"),
        ({"token_healing": True}, "token healing"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden_states"),
    ],
)
def test_modes_not_served_are_named(overrides: dict[str, Any], mode: str) -> None:
    with pytest.raises(NotImplementedError, match=mode):
        resolve_params({}, overrides)


def test_modes_that_are_switched_off_are_no_modes() -> None:
    off = {"penalty_alpha": 0.6, "top_k": 1, "guidance_scale": 1, "token_healing": False, "output_scores": True}
    assert resolve_params({}, off) == resolve_params({}, {})


def test_every_field_of_transformers_is_known() -> None:
    fields = set(GenerationConfig().to_dict())
    assert fields <= KNOWN_FIELDS, sorted(fields - KNOWN_FIELDS)


@given(seed=st.integers(0, 2**63 - 1), index=st.integers(1, 1000))
def test_sequence_seeds_are_seeds_and_differ(seed: int, index: int) -> None:
    derived = sequence_seed(seed, index)
    assert 0 <= derived < 2**63
    assert derived == sequence_seed(seed, index)
    assert derived not in {sequence_seed(seed, other) for other in range(index)}
    assert sequence_seed(seed, 0) == seed


def test_neighbouring_seeds_share_no_sequences() -> None:
    seeds = {sequence_seed(seed, index) for seed in range(100) for index in range(1, 100)}
    assert len(seeds) == 100 * 99
