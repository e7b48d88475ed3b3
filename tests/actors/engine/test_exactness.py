"""Greedy tokens are those of ``generate``; sampled ones depend on seed and prompt alone (DESIGN, rule 2)."""

import random
from collections.abc import Sequence

import pytest

from actors.engine.params import GenerationParams
from tests.actors.engine.harness import Drafter, generate, ragged_prompts, requests, run, tiny_engine, tokens
from tests.actors.engine.tiny_models import ARCHITECTURES, VOCAB_SIZE

PAGED = [name for name in ARCHITECTURES if name != "mamba"]
NUM_NEW = 24
EOS = 2
# 16 sequences of up to 64 tokens want 256 blocks of 4: 40 make sequences push one another out again and again.
SETTINGS = {
    "alone": {"count": 1},
    "crowd": {"count": 16},
    "preempted": {"count": 16, "num_blocks": 40},
    "chunked": {"count": 5, "max_num_batched_tokens": 7},
}


def noisy_drafter(truth: dict[str, list[int]], prompts: Sequence[tuple[int, ...]], seed: int = 0) -> Drafter:
    """Propose the true continuation with wrong ids strewn in: right, partly right, and wholly wrong drafts."""
    source = random.Random(seed)

    def draft(request_id: str, ids: list[int]) -> list[int]:
        done = len(ids) - len(prompts[int(request_id[1:])])
        ahead = truth[request_id][done : done + source.randint(0, 5)]
        return [token if source.random() < 0.7 else source.randrange(VOCAB_SIZE) for token in ahead]

    return draft


@pytest.fixture(scope="module")
def oracle() -> dict[str, dict[str, list[int]]]:
    """Greedy ids of ``generate`` for the prompts of this module, by architecture."""
    prompts = ragged_prompts(16)
    return {
        name: {f"r{i}": generate(name, p, NUM_NEW, eos_token_id=EOS) for i, p in enumerate(prompts)} for name in PAGED
    }


@pytest.mark.parametrize("drafts", ["plain", "drafted"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("architecture", PAGED)
def test_greedy_tokens_are_generates(
    architecture: str, setting: str, drafts: str, oracle: dict[str, dict[str, list[int]]]
) -> None:
    config = dict(SETTINGS[setting])
    prompts = ragged_prompts(16)[: config.pop("count")]
    want = {f"r{i}": oracle[architecture][f"r{i}"] for i in range(len(prompts))}
    engine = tiny_engine(architecture, **config)
    drafter = noisy_drafter(want, prompts) if drafts == "drafted" else None
    params = GenerationParams(max_new_tokens=NUM_NEW, eos_token_id=(EOS,))
    got = tokens(run(engine, requests(prompts, params), drafter))
    assert got == want
    stats = engine.stats()
    assert (stats.num_preemptions > 0) == (setting == "preempted")
    if drafts == "drafted":
        assert 0 < stats.num_accepted_tokens < stats.num_draft_tokens


def test_greedy_tokens_of_a_state_space_model_are_generates() -> None:
    prompts = ragged_prompts(5)
    want = {f"r{i}": generate("mamba", p, NUM_NEW, eos_token_id=EOS) for i, p in enumerate(prompts)}
    params = GenerationParams(max_new_tokens=NUM_NEW, eos_token_id=(EOS,))
    for num_blocks in (256, 20):
        engine = tiny_engine("mamba", num_blocks=num_blocks)
        assert tokens(run(engine, requests(prompts, params), noisy_drafter(want, prompts))) == want
        assert engine.stats().num_draft_tokens == 0


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_sampled_tokens_depend_on_the_seed_alone(architecture: str) -> None:
    prompts = ragged_prompts(12, seed=1)
    params = [
        GenerationParams(
            max_new_tokens=NUM_NEW,
            do_sample=True,
            seed=index,
            temperature=0.5 + 0.1 * index,
            top_k=None if index % 3 else 20,
            top_p=None if index % 2 else 0.9,
            repetition_penalty=1.2 if index % 4 == 0 else None,
        )
        for index in range(12)
    ]
    todo = requests(prompts, params)
    alone = {r.request_id: tokens(run(tiny_engine(architecture), [r]))[r.request_id] for r in todo}
    assert tokens(run(tiny_engine(architecture), todo)) == alone
    assert tokens(run(tiny_engine(architecture), todo, noisy_drafter(alone, prompts))) == alone
    wrong: Drafter = lambda _, ids: [(ids[-1] + 1) % VOCAB_SIZE] * 4  # noqa: E731
    assert tokens(run(tiny_engine(architecture, num_blocks=30), todo, wrong)) == alone
    other = [
        r.__class__(request_id=r.request_id, prompt_token_ids=r.prompt_token_ids, params=p)
        for r, p in zip(todo, params[1:] + params[:1], strict=True)
    ]
    assert tokens(run(tiny_engine(architecture), other)) != alone


def test_a_journal_is_continued_as_if_nothing_had_happened() -> None:
    prompts = ragged_prompts(4, seed=2)
    params = GenerationParams(max_new_tokens=NUM_NEW, do_sample=True, seed=7, no_repeat_ngram_size=2)
    whole = tokens(run(tiny_engine(), requests(prompts, params)))
    for cut in (1, 5, NUM_NEW - 1):
        todo = [
            r.__class__(
                request_id=r.request_id,
                prompt_token_ids=r.prompt_token_ids,
                params=r.params,
                emitted_token_ids=tuple(whole[r.request_id][:cut]),
            )
            for r in requests(prompts, params)
        ]
        rest = run(tiny_engine(), todo)
        for request_id, deltas in rest.items():
            assert deltas[0].start == cut
            assert [t for d in deltas for t in d.token_ids] == whole[request_id][cut:]
