"""Beams in the engine are those of transformers: same ids, same scores, same indices, whoever else is in the batch."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from actors.engine.batch import Span
from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from actors.engine.errors import RequestError
from actors.engine.grammar import RegexGrammar
from actors.engine.isolation import forward
from actors.engine.params import GenerationParams
from actors.engine.request import Beam, FinishReason, Request
from actors.engine.scheduled import Scheduled
from tests.actors.engine.harness import generate, ragged_prompts, requests, run, tiny_engine, tiny_loaded, tokens
from tests.actors.engine.tiny_models import ARCHITECTURES, VOCAB_SIZE, tiny_tokenizer
from tests.counted_beams import counted_noise

EOS = (2, 11, 37, 90, 150)  # so many that beams do end
NUM_NEW = 14
BEAMS = GenerationParams(max_new_tokens=NUM_NEW, num_beams=3, eos_token_id=EOS)

RULES: dict[str, dict[str, Any]] = {
    "early": {"early_stopping": True},
    "never": {"early_stopping": "never"},
    "never, long": {"early_stopping": "never", "length_penalty": 2.0},
    "sums": {"length_penalty": 0.0},
    "short": {"length_penalty": -1.0, "num_beams": 5},
    "two": {"num_beams": 2, "max_new_tokens": 1},
    "no eos": {"eos_token_id": ()},
    "wide": {"num_beams": 12, "early_stopping": True, "length_penalty": 0.5},
}
PROCESSORS: dict[str, dict[str, Any]] = {
    "repetition": {"repetition_penalty": 1.6, "no_repeat_ngram_size": 2},
    "lengths": {"min_new_tokens": 5, "exponential_decay_length_penalty": (6, 1.3)},
    "bad words": {"bad_words_ids": [[17], [40, 41]], "suppress_tokens": [60, 61], "begin_suppress_tokens": [100]},
    "forced": {"forced_eos_token_id": [2], "renormalize_logits": True, "remove_invalid_values": True},
    "bias": {"sequence_bias": [[[30], 7.0], [[50, 51], 9.0]]},
}
SAMPLING: dict[str, dict[str, Any]] = {
    "plain": {"top_k": 0},
    "warped": {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
    "hot": {"temperature": 2.0, "top_k": 0, "min_p": 0.01, "repetition_penalty": 1.2},
}


def search(engine: Engine, todo: Sequence[Request]) -> dict[str, tuple[Beam, ...]]:
    """What the searches among ``todo`` find, by request."""
    found: dict[str, tuple[Beam, ...]] = {}
    for request_id, deltas in run(engine, todo).items():
        assert deltas[-1].error == ""
        if deltas[-1].beams is not None:
            found[request_id] = deltas[-1].beams
    return found


def changed(**fields: Any) -> GenerationParams:
    """The usual parameters with some others, in transformers' spelling."""
    frozen = {name: _frozen(value) for name, value in fields.items()}
    given: dict[str, Any] = {"max_new_tokens": NUM_NEW, "num_beams": 3, "eos_token_id": EOS, **frozen}
    return GenerationParams(**given)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def expected(architecture: str, prompt: Sequence[int], params: GenerationParams, **fields: Any) -> list[Beam]:
    """The same by ``model.generate``, one prompt alone."""
    model: Any = tiny_loaded(architecture).model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    ids = torch.tensor([list(prompt)])
    try:
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_return_sequences=params.num_beams,
            return_dict_in_generate=True,
            output_scores=True,
            **{
                "max_new_tokens": params.max_new_tokens,
                "num_beams": params.num_beams,
                "length_penalty": params.length_penalty,
                "early_stopping": params.early_stopping,
                "eos_token_id": list(params.eos_token_id) or None,
                "do_sample": params.do_sample,
            },
            **fields,
        )
    finally:
        model.set_attn_implementation(before)
    found = []
    for row, score, indices in zip(out.sequences, out.sequences_scores, out.beam_indices, strict=True):
        length = int((indices >= 0).sum())
        new = tuple(row[len(prompt) : len(prompt) + length].tolist())
        found.append(Beam(new, float(score), tuple(indices[:length].tolist()), FinishReason.STOP))
    return found


def assert_same(got: Sequence[Beam], want: Sequence[Beam]) -> None:
    assert [beam.token_ids for beam in got] == [beam.token_ids for beam in want]
    assert [beam.beam_indices for beam in got] == [beam.beam_indices for beam in want]
    assert [beam.score for beam in got] == pytest.approx([beam.score for beam in want], abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ragged_searches_are_generates(architecture: str) -> None:
    prompts = ragged_prompts(4, seed=3)
    found = search(tiny_engine(architecture), requests(prompts, BEAMS))
    for index, prompt in enumerate(prompts):
        assert_same(found[f"r{index}"], expected(architecture, prompt, BEAMS))
        for beam in found[f"r{index}"]:
            is_end = beam.token_ids[-1] in EOS
            assert beam.finish_reason is (FinishReason.STOP if is_end else FinishReason.LENGTH)


@pytest.mark.parametrize("rules", RULES)
def test_rules_are_generates(rules: str) -> None:
    prompts = ragged_prompts(3, seed=5)
    params = changed(**RULES[rules])
    found = search(tiny_engine("mistral"), requests(prompts, params))
    for index, prompt in enumerate(prompts):
        assert_same(found[f"r{index}"], expected("mistral", prompt, params))


@pytest.mark.parametrize("processors", PROCESSORS)
def test_each_beam_has_its_own_prefix_processed(processors: str) -> None:
    prompts = ragged_prompts(3, seed=7)
    params = changed(**PROCESSORS[processors])
    found = search(tiny_engine(), requests(prompts, params))
    plain = search(tiny_engine(), requests(prompts, BEAMS))
    for index, prompt in enumerate(prompts):
        assert_same(found[f"r{index}"], expected("llama", prompt, params, **PROCESSORS[processors]))
    assert found != plain, "the processors changed nothing"


@pytest.mark.parametrize("sampling", SAMPLING)
def test_sampled_beams_are_transformers_under_the_same_noise(sampling: str) -> None:
    prompts = ragged_prompts(3, seed=9)
    each = [changed(do_sample=True, seed=100 + index, **SAMPLING[sampling]) for index in range(3)]
    found = search(tiny_engine("gemma2"), requests(prompts, each))
    assert found == search(tiny_engine("gemma2", num_blocks=60), requests(prompts, each)), "the same seeds"
    for index, prompt in enumerate(prompts):
        with counted_noise(tiny_loaded("gemma2").model, [100 + index], [0]):
            want = expected("gemma2", prompt, each[index], **SAMPLING[sampling])
        assert_same(found[f"r{index}"], want)


def test_stop_strings_end_beams(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    engine = Engine(
        dataclasses.replace(tiny_loaded("llama"), tokenizer=tokenizer), EngineConfig(block_size=4, num_blocks=256)
    )
    stops = ["a", "e", "Q", "1"]
    prompts = ragged_prompts(3, seed=11)
    params = changed(stop_strings=stops, eos_token_id=())
    found = search(engine, requests(prompts, params))
    for index, prompt in enumerate(prompts):
        assert_same(found[f"r{index}"], expected("llama", prompt, params, stop_strings=stops, tokenizer=tokenizer))
    assert any(len(beam.token_ids) < NUM_NEW for beams in found.values() for beam in beams)


@pytest.mark.parametrize(
    "bounds",
    [{"num_blocks": 40}, {"max_num_batched_tokens": 7}, {"max_num_seqs": 3}, {"prefix_cache": False, "num_blocks": 40}],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "mamba"])
def test_beams_and_streams_do_not_disturb_one_another(architecture: str, bounds: dict[str, Any]) -> None:
    prompts = ragged_prompts(10, seed=13)
    plain = GenerationParams(max_new_tokens=NUM_NEW, eos_token_id=EOS)
    todo = requests(prompts, [BEAMS if index % 2 else plain for index in range(10)])
    engine = tiny_engine(architecture, **bounds)
    deltas = run(engine, todo)
    for index, prompt in enumerate(prompts):
        if index % 2:
            assert_same(deltas[f"r{index}"][-1].beams or (), expected(architecture, prompt, BEAMS))
    streams = tokens({name: items for name, items in deltas.items() if int(name[1:]) % 2 == 0})
    for name, ids in streams.items():
        assert ids == generate(architecture, prompts[int(name[1:])], NUM_NEW, eos_token_id=list(EOS))
    if "num_blocks" in bounds:
        assert engine.stats().num_preemptions > 0


def test_a_search_that_fails_or_is_taken_back_leaves_the_others_alone() -> None:
    prompts = ragged_prompts(4, seed=15)
    broken = changed(length_penalty=1e9, eos_token_id=())  # 2 ** 1e9 is no float
    todo = requests(prompts, [BEAMS, broken, BEAMS, BEAMS])
    engine = tiny_engine()
    for request in todo:
        engine.add(request)
    ended = {}
    while engine.has_work():
        for delta in engine.step():
            if delta.finish_reason is not None:
                ended[delta.request_id] = delta
        engine.check_integrity()
        engine.abort("r3")
    assert ended["r1"].finish_reason is FinishReason.ERROR
    assert "OverflowError" in ended["r1"].error
    assert set(ended) == {"r0", "r1", "r2"}
    for index in (0, 2):
        assert_same(ended[f"r{index}"].beams or (), expected("llama", prompts[index], BEAMS))
    stats = engine.stats()
    assert stats.num_free_blocks == stats.num_blocks
    assert engine.num_unfinished() == 0


def test_time_ends_a_search_with_what_it_has() -> None:
    now = [0.0]
    engine = Engine(tiny_loaded("llama"), EngineConfig(block_size=4, num_blocks=256), clock=lambda: now[0])
    engine.add(requests(ragged_prompts(1), changed(max_time=5.0, eos_token_id=()))[0])
    while engine.has_work():
        deltas = engine.step()
        now[0] += 1.0
    (beams,) = [delta.beams for delta in deltas]
    assert beams is not None
    assert {beam.finish_reason for beam in beams} == {FinishReason.TIME}
    assert {len(beam.token_ids) for beam in beams} == {7}


def test_a_long_search_says_that_it_lives() -> None:
    deltas = run(tiny_engine(), requests(ragged_prompts(1), changed(max_new_tokens=40, eos_token_id=())))["r0"]
    assert [delta.num_searched for delta in deltas] == [16, 16, 0]
    assert all(delta.token_ids == () and delta.start == 0 for delta in deltas)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"num_beams": 17}, "num_beams"),
        ({"num_beams": 10, "max_new_tokens": 200}, "num_beams"),
        ({"logprobs": 2}, "logprobs"),
        ({"prompt_logprobs": 2}, "prompt_logprobs"),
        ({"grammar": RegexGrammar(pattern="a+")}, "grammar"),
        ({"length_penalty": float("inf")}, "length_penalty"),
    ],
)
def test_refusals_name_the_field(fields: dict[str, Any], field: str) -> None:
    engine = tiny_engine(max_num_seqs=16)
    (request,) = requests([(5, 6, 7)], changed(**fields))
    with pytest.raises(RequestError) as caught:
        engine.add(request)
    assert caught.value.field == field
    assert not engine.has_work()


def test_searches_are_neither_drafted_nor_continued() -> None:
    engine = tiny_engine()
    (request,) = requests([(5, 6, 7)], BEAMS)
    with pytest.raises(RequestError, match="num_beams"):
        engine.open(request)
    with pytest.raises(RequestError, match="run again"):
        engine.add(msgspec.structs.replace(request, emitted_token_ids=(5,)))
    engine.add(request)
    with pytest.raises(RequestError, match="already running"):
        engine.add(request)
    engine.propose("r0", 3, [5])
    engine.hold("r0")
    assert engine.has_work(), "nothing holds a search"


class OneFails:
    """A runner that cannot compute what has a certain key."""

    is_chunkable = True

    def __init__(self, key: str) -> None:
        self.key = key
        self.copied: list[tuple[int, int]] = []

    def forward(self, spans: Sequence[Span], num_layers: int = 0) -> torch.Tensor:
        if any(span.key == self.key for span in spans):
            raise RuntimeError("cannot")
        return torch.zeros(len(spans), VOCAB_SIZE)

    def copy(self, blocks: Sequence[tuple[int, int]]) -> None:
        self.copied += blocks

    def fork(self, source: str, key: str) -> None: ...

    def forget(self, key: str) -> None: ...


def test_a_failing_beam_takes_its_search_along_and_nobody_else(sequences: Callable[[str], Any]) -> None:
    first, second = sequences("a"), sequences("b")
    plan = [
        Scheduled(member, Span(member.request_id, [5], 0, ((0, 1),), 1), group=group, copies=((index, 9 + index),))
        for index, (member, group) in enumerate([(first.members[0], first)] * 2 + [(second.members[0], second)] * 2)
    ]
    runner = OneFails(first.members[0].request_id)
    survivors, logits, failures = forward(runner, plan, VOCAB_SIZE)
    assert [item.group for item in survivors] == [second, second]
    assert logits.shape == (2, VOCAB_SIZE)
    assert [(item.group, error) for item, error in failures] == [(first, "RuntimeError: cannot")]
    assert runner.copied == [(0, 9), (1, 10), (2, 11), (3, 12)]


@pytest.fixture
def sequences() -> Callable[[str], Any]:
    """Makes a search by its name."""
    engine = tiny_engine()

    def make(name: str) -> Any:
        return engine._intake.begin_search(Request(request_id=name, prompt_token_ids=(5, 6), params=BEAMS))

    return make
