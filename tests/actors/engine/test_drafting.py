"""Draft sequences: what they propose is what the model would generate, however often they are corrected."""

import random

import pytest

from actors.engine.engine import Engine
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from tests.actors.engine.harness import ragged_prompts, requests, run, tiny_engine, tokens
from tests.actors.engine.tiny_models import VOCAB_SIZE

SAMPLED = GenerationParams(max_new_tokens=40, do_sample=True, seed=3, repetition_penalty=1.3)


def proposals(engine: Engine) -> dict[str, tuple[int, ...]]:
    """Step until nothing runs; what each sequence proposed, by its id."""
    found = {}
    while engine.has_work():
        for delta in engine.step():
            found[delta.request_id] = delta.token_ids
        engine.check_integrity()
    return found


def continuation(prompt: tuple[int, ...], count: int, num_prompt: int | None = None) -> tuple[int, ...]:
    """What a target emits behind ``prompt``, of which the first ``num_prompt`` ids are the prompt."""
    cut = len(prompt) if num_prompt is None else num_prompt
    request = Request(request_id="x", prompt_token_ids=prompt[:cut], emitted_token_ids=prompt[cut:], params=SAMPLED)
    return tuple(tokens_behind(request)[:count])


def tokens_behind(request: Request) -> list[int]:
    return [t for d in run(tiny_engine(), [request])["x"] for t in d.token_ids]


def test_a_draft_follows_its_target_through_corrections() -> None:
    source = random.Random(5)
    engine = tiny_engine(num_blocks=64)
    prompt = ragged_prompts(1, seed=9)[0]
    engine.open(Request(request_id="d", prompt_token_ids=prompt, params=SAMPLED))
    confirmed = list(prompt)
    engine.extend("d", len(confirmed), [], 3)
    for _ in range(8):
        proposed = proposals(engine)["d"]
        assert proposed == continuation(tuple(confirmed), 3, len(prompt))
        right = source.randint(0, 3)
        news = [*proposed[:right], source.randrange(4, VOCAB_SIZE)]
        start = len(confirmed)
        confirmed += news
        engine.extend("d", start, news, 3)


def test_a_repeated_or_shorter_correction_does_no_harm() -> None:
    engine = tiny_engine()
    prompt = ragged_prompts(1, seed=4)[0]
    engine.open(Request(request_id="d", prompt_token_ids=prompt, params=SAMPLED))
    engine.extend("d", len(prompt), [9, 9], 4)
    first = proposals(engine)["d"]
    engine.extend("d", len(prompt), [9, 9], 4)
    assert proposals(engine)["d"] == first
    engine.extend("d", len(prompt), [9], 4)
    assert proposals(engine)["d"] == continuation((*prompt, 9), 4, len(prompt))
    engine.extend("d", len(prompt), [], 2)
    engine.extend("d", len(prompt), [8], 2)  # a newer word before the older one was worked on
    assert proposals(engine) == {"d": continuation((*prompt, 8), 2, len(prompt))}


def test_a_draft_says_when_it_must_be_told_from_the_start() -> None:
    engine = tiny_engine()
    with pytest.raises(KeyError):
        engine.extend("d", 0, [1], 1)
    engine.open(Request(request_id="d", prompt_token_ids=(5, 6, 7), params=SAMPLED))
    with pytest.raises(KeyError):
        engine.extend("d", 4, [1], 1)
    engine.extend("d", 3, [], 4)
    proposals(engine)
    with pytest.raises(KeyError):
        engine.extend("d", 5, [1], 1)  # ids 3 and 4 are only its own guess


def test_drafts_are_batched_and_survive_a_shortage_of_blocks() -> None:
    prompts = ragged_prompts(8, seed=6)
    engine = tiny_engine(num_blocks=30)
    for index, prompt in enumerate(prompts):
        engine.open(Request(request_id=f"r{index}", prompt_token_ids=prompt, params=SAMPLED))
        engine.extend(f"r{index}", len(prompt), [], 4)
    got = proposals(engine)
    want = tokens(run(tiny_engine(), requests(prompts, SAMPLED)))
    assert {name: list(ids) for name, ids in got.items()} == {name: ids[:4] for name, ids in want.items()}
    for name in got:
        engine.abort(name)
    assert engine.stats().num_free_blocks == 30


def test_a_draft_stops_at_eos_and_at_its_end() -> None:
    engine = tiny_engine()
    prompt = ragged_prompts(1, seed=4)[0]
    eager = GenerationParams(max_new_tokens=3)
    engine.open(Request(request_id="d", prompt_token_ids=prompt, params=eager))
    engine.extend("d", len(prompt), [], 8)
    first = proposals(engine)["d"]
    assert len(first) == 3
    ending = GenerationParams(max_new_tokens=20, eos_token_id=(first[1],))
    engine.open(Request(request_id="d", prompt_token_ids=prompt, params=ending))
    engine.extend("d", len(prompt), [], 8)
    assert proposals(engine)["d"] == first[:2]
    engine.extend("d", len(prompt), list(first), 0)
    assert proposals(engine) == {"d": ()}


def test_a_failure_behind_a_wrong_draft_does_not_show() -> None:
    # The bad-words processor raises nothing, so the failure is made: all ids but one are suppressed behind id 9.
    prompt = ragged_prompts(1, seed=4)[0]
    everything = tuple(range(VOCAB_SIZE))
    params = GenerationParams(max_new_tokens=6, bad_words_ids=tuple((9, token) for token in everything))
    plain = tokens_behind(Request(request_id="x", prompt_token_ids=prompt, params=params))
    assert 9 not in plain
    engine = tiny_engine()
    engine.add(Request(request_id="x", prompt_token_ids=prompt, params=params))
    got: list[int] = []
    while engine.has_work():
        for delta in engine.step():
            assert delta.error == ""
            got += delta.token_ids
            engine.propose("x", len(prompt) + len(got), [9, 9])
    assert got == plain
    assert engine.stats().num_draft_tokens > 0
