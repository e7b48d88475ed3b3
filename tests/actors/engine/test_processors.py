"""Processed logits: the vectorized path against transformers' classes, and both against ``model.generate``."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from actors.engine.params import GenerationParams
from actors.engine.processors import LogitBias, PresenceFrequencyPenalty, build_processors, needs_list
from actors.engine.sampler import SampleRow, process, sample
from tests.actors.engine.sampling_helpers import EOS, PROMPT, VOCAB_SIZE, make_row, tiny_loaded

TOKENS = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=12)
PENALTY = st.none() | st.floats(0.5, 2.0)
VECTORIZED_PARAMS = st.builds(
    GenerationParams,
    do_sample=st.booleans(),
    temperature=st.none() | st.floats(0.05, 4.0),
    top_k=st.none() | st.integers(0, VOCAB_SIZE + 5),
    top_p=st.none() | st.floats(0.01, 1.0),
    min_p=st.none() | st.floats(0.0, 1.0),
    repetition_penalty=PENALTY,
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    logit_bias=st.none() | st.dictionaries(st.integers(0, VOCAB_SIZE - 1), st.floats(-50, 50), max_size=4),
    eos_token_id=st.sampled_from([(), EOS]),
    min_new_tokens=st.none() | st.integers(0, 12),
    min_length=st.none() | st.integers(0, 16),
)

# One entry a field that goes through transformers' classes, alone and with what it needs.
LISTED: dict[str, dict[str, Any]] = {
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.4},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": ((4,), (9, 5), (11, 12, 13)), "eos_token_id": EOS},
    "sequence_bias": {"sequence_bias": (((40,), 6.0), ((9, 41), 5.0), ((8,), float("-inf")))},
    "forced_bos_token_id": {"forced_bos_token_id": 13},
    "forced_eos_token_id": {"forced_eos_token_id": (30,)},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (3, 1.6), "eos_token_id": EOS},
    "suppress_tokens": {"suppress_tokens": tuple(range(0, VOCAB_SIZE, 2))},
    "begin_suppress_tokens": {"begin_suppress_tokens": tuple(range(0, VOCAB_SIZE, 2))},
    "remove_invalid_values": {"remove_invalid_values": True},
    "renormalize_logits": {"renormalize_logits": True},
}
SHARED: dict[str, dict[str, Any]] = {
    "plain": {},
    "min_new_tokens": {"min_new_tokens": 9, "eos_token_id": tuple(range(30))},
    "min_length": {"min_length": 11, "eos_token_id": tuple(range(30))},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "many": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "suppress_tokens": (1, 2), "min_new_tokens": 3},
}
WARPED: dict[str, dict[str, Any]] = {
    "top_h": {"top_h": 0.4},
    "typical_p": {"typical_p": 0.6},
    "epsilon_cutoff": {"epsilon_cutoff": 0.03},
    "eta_cutoff": {"eta_cutoff": 0.05},
}


def by_transformers(logits: Tensor, row: SampleRow) -> Tensor:
    """One row, (vocab,), through the whole list of classes, whatever path the sampler takes."""
    prompt = list(row.prefix[: row.state.num_prompt_tokens])
    build: Callable[..., Callable[..., Tensor]] = build_processors
    processors = build(row.state.params, prompt, tiny_loaded().model, torch.device("cpu"))
    return processors(torch.tensor([row.prefix[: row.num_prefix]]), logits.float().unsqueeze(0)).squeeze(0)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(VECTORIZED_PARAMS, TOKENS), min_size=1, max_size=6), st.integers(0, 10_000), st.booleans())
def test_vectorized_path_equals_transformers(
    cases: list[tuple[GenerationParams, list[int]]], seed: int, is_tied: bool
) -> None:
    logits = torch.randn(len(cases), VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 3
    if is_tied:  # many equal values, at the boundary of top-k as well
        logits = logits.round()
    rows = [make_row(params, emitted) for params, emitted in cases]
    assert all(row.state.is_vectorized for row in rows)
    scores, errors = process(logits, rows)
    assert not errors
    for i, row in enumerate(rows):
        expected = by_transformers(logits[i], row)
        if is_tied and row.state.params.top_p is not None:  # which of equal tokens go is left open there
            assert torch.equal(scores[i].sort().values, expected.sort().values), row.state.params
        else:
            assert torch.equal(scores[i], expected), row.state.params


@pytest.mark.parametrize("is_coarse", [False, True])
def test_top_p_of_a_wide_vocabulary(is_coarse: bool) -> None:
    """Rows whose kept tokens are few, and rows so flat that they are sorted whole; equal logits at the boundary."""
    num_tokens = 3000
    scales = [0.01, 0.5, 1.0, 3.0, 8.0, 40.0]
    cases = [(scale, top_p) for scale in scales for top_p in (1e-6, 0.3, 0.9, 0.999, 1 - 1e-7)]
    logits = torch.randn(len(cases), num_tokens, generator=torch.Generator().manual_seed(5))
    logits *= torch.tensor([scale for scale, _ in cases]).unsqueeze(-1)
    if is_coarse:
        logits = logits.bfloat16()
    rows = [make_row(GenerationParams(do_sample=True, top_p=top_p)) for _, top_p in cases]
    scores, _ = process(logits, rows)
    for i, row in enumerate(rows):
        expected = by_transformers(logits[i], row)
        if is_coarse:
            assert torch.equal(scores[i].sort().values, expected.sort().values), cases[i]
            dropped = (logits[i] == scores[i][scores[i].isfinite()].min()) & ~scores[i].isfinite()
            kept = (logits[i] == scores[i][scores[i].isfinite()].min()) & scores[i].isfinite()
            assert not dropped.any() or dropped.nonzero().max() < kept.nonzero().min()
        else:
            assert torch.equal(scores[i], expected), cases[i]


def test_ties_at_the_boundary_of_top_k_stay() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, [3, 8, 20]] = torch.tensor([2.0, 1.0, 1.0])
    scores, _ = process(logits, [make_row(GenerationParams(do_sample=True, top_k=2))])
    assert scores[0].isfinite().nonzero().flatten().tolist() == [3, 8, 20]


@pytest.mark.parametrize("fields", [*LISTED.values(), *SHARED.values()], ids=[*LISTED, *SHARED])
def test_scores_and_tokens_equal_those_of_generate(fields: dict[str, Any]) -> None:
    params = GenerationParams(max_new_tokens=10, **fields)
    prompt = PROMPT[:1] if "forced_bos_token_id" in fields else PROMPT
    model: Any = tiny_loaded().model
    arguments: dict[str, Any] = {"eos_token_id": None} | {name: as_lists(value) for name, value in fields.items()}
    expected = model.generate(
        torch.tensor([prompt]),
        do_sample=False,
        max_new_tokens=10,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **arguments,
    )
    tokens = expected.sequences[0, len(prompt) :].tolist()
    with torch.inference_mode():
        logits = model(expected.sequences[:, :-1]).logits[0, len(prompt) - 1 :]
    rows = [make_row(params, tokens[:i], prompt) for i in range(len(tokens))]
    scores, _ = process(logits, rows)
    assert torch.allclose(scores, torch.cat(expected.scores), atol=1e-4)
    assert sample(logits, rows).token_ids == tokens
    if fields and "remove_invalid_values" not in fields:
        assert not torch.allclose(scores, logits), "the processor had nothing to do, so nothing was compared"


@pytest.mark.parametrize("fields", WARPED.values(), ids=WARPED)
def test_other_warpers_are_applied_when_sampling_only(fields: dict[str, Any]) -> None:
    logits = torch.randn(1, VOCAB_SIZE, generator=torch.Generator().manual_seed(1)) * 2
    sampled, greedy = (make_row(GenerationParams(do_sample=do_sample, **fields)) for do_sample in (True, False))
    assert not sampled.state.is_vectorized
    assert greedy.state.is_plain
    scores, _ = process(logits, [sampled])
    assert 0 < int(scores.isfinite().sum()) < VOCAB_SIZE
    assert torch.equal(scores[0], by_transformers(logits[0], sampled))


def test_remove_invalid_values_rescues_a_row() -> None:
    logits = torch.full((1, VOCAB_SIZE), float("nan"))
    logits[0, 7] = 1.0
    decided = sample(logits, [make_row(GenerationParams(remove_invalid_values=True))])
    assert not decided.errors
    assert decided.token_ids == [7]


def test_openai_penalties_count_emitted_tokens_only() -> None:
    params = GenerationParams(presence_penalty=0.5, frequency_penalty=0.25, logit_bias={1: 3.0, 8: -4.0})
    scores, _ = process(torch.zeros(1, VOCAB_SIZE), [make_row(params, [8, 8, 6])])
    expected = torch.zeros(VOCAB_SIZE)
    expected[[1, 6, 8]] = torch.tensor([3.0, -0.75, -5.0])
    assert torch.equal(scores[0], expected)


def test_our_processors_stand_before_the_temperature() -> None:
    params = GenerationParams(do_sample=True, temperature=0.5, logit_bias={3: 1.0}, presence_penalty=1.0, top_h=0.9)
    kinds = [type(x) for x in build_processors(params, PROMPT, tiny_loaded().model, torch.device("cpu"))]
    assert kinds[:2] == [LogitBias, PresenceFrequencyPenalty]
    assert [kind.__name__ for kind in kinds[2:]] == ["TemperatureLogitsWarper", "TopHLogitsWarper"]


def test_ids_that_a_smaller_vocabulary_lacks_are_ignored() -> None:
    """A draft may know fewer tokens than the target whose ids it is told."""
    fields: dict[str, Any] = {
        "repetition_penalty": 1.5,
        "presence_penalty": 1.0,
        "logit_bias": {VOCAB_SIZE: 1.0, 3: 1.0},
    }
    params = GenerationParams(eos_token_id=(VOCAB_SIZE + 1,), min_new_tokens=5, **fields)
    far = make_row(params, [VOCAB_SIZE + 7, 3])
    near = make_row(msgspec.structs.replace(params, logit_bias={3: 1.0}, eos_token_id=()), [3])
    logits = torch.randn(1, VOCAB_SIZE, generator=torch.Generator().manual_seed(2))
    assert torch.equal(process(logits, [far])[0], process(logits, [near])[0])


def test_neutral_values_need_no_list() -> None:
    neutral = GenerationParams(
        do_sample=True,
        encoder_repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        typical_p=1.0,
        epsilon_cutoff=0.0,
        eta_cutoff=1.0,
    )
    assert not needs_list(neutral)
    assert make_row(GenerationParams(top_k=5, temperature=0.3, repetition_penalty=1.0)).state.is_plain


def as_lists(value: Any) -> Any:
    """Tuples as the lists that ``generate`` expects."""
    return [as_lists(item) for item in value] if isinstance(value, tuple) else value
