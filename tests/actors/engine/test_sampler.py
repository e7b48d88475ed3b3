"""The sampler: right distribution, one row's result a function of that row alone, one row's fault its own."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.engine.choice import NoiseKeys
from actors.engine.noise import gumbel_noise
from actors.engine.params import GenerationParams
from actors.engine.sampler import SampleRow, SamplerState, process, sample
from tests.actors.engine.sampling_helpers import EOS, PROMPT, VOCAB_SIZE, chi_square_p, make_row

NUM_DRAWS = 20_000
EMITTED = [8, 8, 6, 30]
DISTRIBUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hot": {"temperature": 1.7},
    "top_k": {"top_k": 8, "temperature": 1.3},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.05, "presence_penalty": 1.0, "repetition_penalty": 1.2},
    "typical_p": {"typical_p": 0.7, "no_repeat_ngram_size": 2},
}
CROWD: list[dict[str, Any]] = [
    {},
    {"do_sample": True},
    {"do_sample": True, "seed": 2**62, "top_k": 3, "logprobs": 4},
    {"do_sample": True, "seed": 5, "top_p": 0.7, "temperature": 0.7},
    {"do_sample": True, "seed": 6, "min_p": 0.1, "logprobs": 0},
    {"do_sample": True, "seed": 7, "typical_p": 0.5, "top_k": 20},
    {"do_sample": True, "seed": 8, "repetition_penalty": 1.4, "frequency_penalty": 0.5, "logprobs": 1},
    {"no_repeat_ngram_size": 2, "logprobs": 2},
    {"logit_bias": {4: 30.0}, "eos_token_id": (4,), "min_new_tokens": 20},
    {"do_sample": True, "seed": 9, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "suppress_tokens": (1, 2, 3)},
]


def random_logits(num_rows: int, vocab_size: int = VOCAB_SIZE, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("fields", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_draws_over_seeds_follow_softmax_of_processed_logits(fields: dict[str, Any]) -> None:
    logits = random_logits(1)
    row = make_row(GenerationParams(do_sample=True, **fields), EMITTED)
    scores, _ = process(logits, [row])
    if row.state.is_vectorized:
        params = [GenerationParams(do_sample=True, seed=seed, **fields) for seed in range(NUM_DRAWS)]
    else:  # transformers' classes once instead of 20,000 times: draw from what they made of the logits
        params = [GenerationParams(do_sample=True, seed=seed) for seed in range(NUM_DRAWS)]
        logits = scores
    decided = sample(logits.expand(NUM_DRAWS, -1), [make_row(p, EMITTED) for p in params])
    counts = torch.bincount(torch.tensor(decided.token_ids), minlength=VOCAB_SIZE)
    assert chi_square_p(counts, scores[0].softmax(dim=-1)) > 0.01


@pytest.mark.parametrize("fields", [{"temperature": 1.7}, {"top_k": 8}])
def test_draws_over_positions_follow_softmax_of_processed_logits(fields: dict[str, Any]) -> None:
    logits = random_logits(1)
    row = make_row(GenerationParams(do_sample=True, seed=1, **fields))
    scores, _ = process(logits, [row])
    rows = [SampleRow(row.state, row.prefix, position) for position in range(NUM_DRAWS)]
    counts = torch.bincount(torch.tensor(sample(logits.expand(NUM_DRAWS, -1), rows).token_ids), minlength=VOCAB_SIZE)
    assert chi_square_p(counts, scores[0].softmax(dim=-1)) > 0.01


def test_the_test_of_the_distribution_can_fail() -> None:
    probabilities = torch.full((10,), 0.1)
    counts = torch.full((10,), 2000)
    assert chi_square_p(counts, probabilities) > 0.99
    counts[0] += 400
    assert chi_square_p(counts, probabilities) < 0.01


@pytest.mark.parametrize("fields", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_token_is_argmax_of_scores_and_noise(fields: dict[str, Any]) -> None:
    """Also where noise was computed for the surviving tokens only."""
    rows = [make_row(GenerationParams(do_sample=True, seed=seed, **fields), EMITTED) for seed in range(30)]
    logits = random_logits(30)
    scores, _ = process(logits, rows)
    noise = gumbel_noise(torch.arange(30), torch.full((30,), rows[0].num_prefix), VOCAB_SIZE)
    assert sample(logits, rows).token_ids == (scores + noise).argmax(dim=-1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_company_and_order_change_nothing(dtype: torch.dtype) -> None:
    rows = [make_row(GenerationParams(**fields), EMITTED[:n]) for fields in CROWD for n in range(5)]
    logits = random_logits(len(rows)).to(dtype)
    before = logits.clone()
    together = sample(logits, rows)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(3)).tolist()
    shuffled = sample(logits[order], [rows[i] for i in order])
    assert torch.equal(logits, before)
    assert not together.errors
    for i, row in enumerate(rows):
        alone = sample(logits[i : i + 1], [row])
        assert alone.token_ids[0] == together.token_ids[i] == shuffled.token_ids[order.index(i)]
        assert alone.logprobs[0] == together.logprobs[i] == shuffled.logprobs[order.index(i)]


def test_wide_rows_do_not_depend_on_company_either() -> None:
    """A vocabulary that torch's kernels split and vectorize differently for one row and for many."""
    fields: list[dict[str, Any]] = [
        {},
        {"top_p": 0.9},
        {"top_k": 40},
        {"min_p": 0.001},
        {"temperature": 0.6, "repetition_penalty": 1.1},
    ]
    rows = [make_row(GenerationParams(do_sample=True, seed=i, logprobs=3, **f)) for i, f in enumerate(fields)]
    logits = random_logits(len(rows), 33_001)
    together = sample(logits, rows)
    for i, row in enumerate(rows):
        alone = sample(logits[i : i + 1], [row])
        assert alone.token_ids[0] == together.token_ids[i]
        assert alone.logprobs[0] == together.logprobs[i]


@pytest.mark.parametrize("fields", CROWD)
def test_drafted_positions_in_one_call_equal_single_steps(fields: dict[str, Any]) -> None:
    """Rows of one sequence whose prefixes hold drafts, some of them wrong: no state passes between them."""
    drafts = [8, 30, 8, 6]
    row = make_row(GenerationParams(**fields), drafts)
    rows = [SampleRow(row.state, row.prefix, len(PROMPT) + i) for i in range(len(drafts) + 1)]
    logits = random_logits(len(rows), seed=4)
    at_once = sample(logits, rows).token_ids
    fresh = [make_row(GenerationParams(**fields), drafts[:i]) for i in range(len(rows))]
    assert at_once == [sample(logits[i : i + 1], [row]).token_ids[0] for i, row in enumerate(fresh)]
    assert at_once == sample(logits, rows).token_ids


def test_greedy_takes_the_first_of_equal_logits() -> None:
    logits = torch.zeros(2, VOCAB_SIZE)
    logits[:, [9, 40]] = 1.0
    rows = [make_row(GenerationParams()), make_row(GenerationParams(repetition_penalty=1.5, seed=3), prompt=[1, 2])]
    assert sample(logits, rows).token_ids == [9, 9]


def test_min_new_tokens_keeps_eos_away() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, list(EOS)] = 5.0
    params = GenerationParams(eos_token_id=EOS, min_new_tokens=2)
    chosen = [sample(logits, [make_row(params, EMITTED[:n])]).token_ids[0] for n in range(4)]
    assert [token in EOS for token in chosen] == [False, False, True, True]


def raising(message: str) -> SamplerState:
    """A state that needs the slow path, whose processors raise."""

    def build(device: torch.device) -> Any:
        raise RuntimeError(message)

    return SamplerState(GenerationParams(no_repeat_ngram_size=2), len(PROMPT), build)


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_faulty_row_fails_alone(do_sample: bool) -> None:
    params = GenerationParams(do_sample=do_sample, top_k=5, top_p=0.9, logprobs=1)
    rows = [make_row(params, EMITTED[:1]) for _ in range(5)]
    logits = random_logits(5)
    sound = sample(logits, rows)
    logits[1, 17] = float("nan")
    logits[2] = float("-inf")
    logits[3, 4] = float("inf")
    rows[4] = SampleRow(raising("boom"), PROMPT, len(PROMPT))
    decided = sample(logits, rows)
    assert set(decided.errors) == {1, 2, 3, 4}
    assert "finite" in decided.errors[1] and "finite" in decided.errors[3]
    assert "ruled out" in decided.errors[2]
    assert "boom" in decided.errors[4]
    assert decided.token_ids[0] == sound.token_ids[0]
    assert decided.logprobs == [sound.logprobs[0], None, None, None, None]


def test_faults_in_a_batch_without_any_processor() -> None:
    logits = random_logits(2)
    logits[0, 0] = float("nan")
    decided = sample(logits, [make_row(GenerationParams())] * 2)
    assert list(decided.errors) == [0]
    assert decided.token_ids[1] == int(logits[1].argmax())


def test_no_rows() -> None:
    assert sample(torch.empty(0, VOCAB_SIZE), []).token_ids == []


def test_logprobs_are_of_the_processed_distribution() -> None:
    logits = random_logits(2)
    params = GenerationParams(do_sample=True, top_k=3, temperature=0.5, logprobs=5)
    rows = [make_row(params), make_row(GenerationParams())]
    decided = sample(logits, rows)
    expected = process(logits, rows)[0][0].log_softmax(dim=-1)
    found = decided.logprobs[0]
    assert found is not None and decided.logprobs[1] is None
    assert found.logprob == pytest.approx(float(expected[decided.token_ids[0]]))
    assert [token for token, _ in found.top] == expected.topk(3).indices.tolist()  # ruled-out tokens are not listed
    assert [value for _, value in found.top] == pytest.approx(expected.topk(3).values.tolist())
    assert sum(torch.tensor([value for _, value in found.top]).exp().tolist()) == pytest.approx(1.0)


@pytest.mark.parametrize("top_k", [None, 5])
def test_a_draft_of_another_vocabulary_draws_what_its_target_draws(top_k: int | None) -> None:
    """The same distribution over the same tokens under other ids, at positions that are counted otherwise."""
    order = torch.randperm(VOCAB_SIZE, generator=torch.Generator().manual_seed(3))  # of the draft's ids: the target's
    keys = NoiseKeys.of([*order.tolist(), VOCAB_SIZE], VOCAB_SIZE + 1)
    logits = torch.randn(40, VOCAB_SIZE, generator=torch.Generator().manual_seed(4))
    nobody = torch.full((40, 1), -50.0)  # a token that only the draft has
    rows, draft_rows = [], []
    for seed in range(40):
        params = GenerationParams(do_sample=True, seed=seed, temperature=0.9, top_k=top_k)
        rows.append(make_row(params, emitted=[4, 5, 6]))
        draft_rows.append(make_row(params, emitted=[4]))
        draft_rows[-1].state.noise = replace(keys, shift=2)
    target = sample(logits, rows).token_ids
    draft = sample(torch.cat([logits[:, order], nobody], dim=1), draft_rows).token_ids
    assert [int(order[token]) for token in draft] == target
    own = sample(torch.cat([logits[:, order], nobody], dim=1), [make_row(row.state.params, [4]) for row in rows])
    assert own.token_ids != draft, "requests of its own draw with its own noise"
    mixed = [draft_rows[0], make_row(rows[1].state.params, [4]), draft_rows[2]]
    both = sample(torch.cat([logits[:3, order], nobody[:3]], dim=1), mixed).token_ids
    assert both == [draft[0], own.token_ids[1], draft[2]]
