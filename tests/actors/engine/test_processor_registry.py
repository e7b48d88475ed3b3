"""Processors and criteria by name: what may be registered, what may be asked for, and what comes of it."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from actors.engine.errors import ConfigError, RequestError
from actors.engine.params import GenerationParams, NamedProcessor
from actors.engine.processor_registry import ProcessorRegistry
from actors.engine.request import Delta, FinishReason, Request
from tests.actors.engine.harness import Drafter, generate, ragged_prompts, requests, run, tiny_loaded, tokens
from tests.actors.engine.tiny_models import VOCAB_SIZE
from tests.operator_processors import PATHS, BanEvery, EndAtLength

HERE = "tests.operator_processors"
PROMPTS = ragged_prompts(3, seed=2, longest=12)
NUM_NEW = 24


@cache
def registry() -> ProcessorRegistry:
    return ProcessorRegistry.load(PATHS)


def named(name: str, **args: Any) -> NamedProcessor:
    return NamedProcessor(name=name, args=args)


def params(**fields: Any) -> GenerationParams:
    return GenerationParams(**{"max_new_tokens": NUM_NEW, **fields})


def outcome(each: Sequence[GenerationParams], drafter: Drafter | None = None) -> dict[str, list[Delta]]:
    engine = Engine(tiny_loaded("llama"), EngineConfig(block_size=4, num_blocks=256), registry=registry())
    return run(engine, requests(PROMPTS, each), drafter)


def half_right(truth: dict[str, list[int]]) -> Drafter:
    """Proposes four ids each time, the third of them wrong."""

    def draft(request_id: str, ids: list[int]) -> list[int]:
        done = len(ids) - len(PROMPTS[int(request_id[1:])])
        ahead = truth[request_id][done : done + 4]
        return [(token + 1) % VOCAB_SIZE if at == 2 else token for at, token in enumerate(ahead)]

    return draft


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_module_here:Class", "no_such_module_here cannot be imported"),
        (f"{HERE}:Missing", f"there is no Missing in {HERE}"),
        (f"{HERE}:NOT_CALLABLE", "not a class or a function"),
        ("collections:OrderedDict", "no LogitsProcessor or StoppingCriteria"),
    ],
)
def test_what_cannot_be_registered(path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        ProcessorRegistry.load({"mine": path})
    assert str(caught.value).startswith(f"processors: mine is '{path}'")


@pytest.mark.parametrize(
    ("field", "asked", "words"),
    [
        ("logits_processors", named("ban_evry"), "'ban_evry' is not registered here, only ban_every, ban_odd"),
        ("logits_processors", named("ban_every"), "ban_every takes .*step.*missing a required argument: 'step'"),
        ("logits_processors", named("ban_every", step=2, by=1), "ban_every takes .*unexpected.* 'by'"),
        ("logits_processors", named("ban_every", step=0), "refuses its args: step must be at least 1"),
        ("logits_processors", named("end_at_length", num_tokens=3), "'end_at_length' is not a logits processor"),
        ("stopping_criteria", named("ban_odd"), "'ban_odd' is not a stopping criterion"),
    ],
)
def test_what_cannot_be_asked_for(field: str, asked: NamedProcessor, words: str) -> None:
    engine = Engine(tiny_loaded("llama"), EngineConfig(block_size=4, num_blocks=64), registry=registry())
    with pytest.raises(RequestError, match=words) as caught:
        engine.add(Request(request_id="r", prompt_token_ids=(5, 6), params=params(**{field: (asked,)})))
    assert caught.value.field == field
    assert engine.num_unfinished() == 0


def test_without_a_registry_nothing_is_known() -> None:
    engine = Engine(tiny_loaded("llama"), EngineConfig(block_size=4, num_blocks=64))
    with pytest.raises(RequestError, match="only none"):
        engine.add(Request(request_id="r", prompt_token_ids=(5,), params=params(stopping_criteria=(named("x"),))))


def test_tokens_are_those_of_the_same_objects_in_transformers() -> None:
    asked = params(
        logits_processors=(named("ban_every", step=3), named("ban_odd")),
        stopping_criteria=(named("end_at_length", num_tokens=30),),
        repetition_penalty=1.2,
    )
    expected = {
        f"r{index}": generate(
            "llama",
            prompt,
            NUM_NEW,
            repetition_penalty=1.2,
            eos_token_id=None,
            logits_processor=LogitsProcessorList([BanEvery(3), BanEvery(2, offset=1)]),
            stopping_criteria=StoppingCriteriaList([EndAtLength(30)]),
        )
        for index, prompt in enumerate(PROMPTS)
    }
    plain = outcome([asked] * 3)
    assert tokens(plain) == expected
    assert all(token % 2 == 0 and token % 3 for token in tokens(plain)["r0"])
    ends = {name: deltas[-1].finish_reason for name, deltas in plain.items()}
    long = {f"r{index}" for index, prompt in enumerate(PROMPTS) if len(prompt) + NUM_NEW >= 30}
    assert long and ends == {name: FinishReason.STOP if name in long else FinishReason.LENGTH for name in ends}
    assert tokens(outcome([asked] * 3, half_right(expected))) == expected


def test_sampled_tokens_do_not_hang_on_drafts() -> None:
    asked = params(do_sample=True, seed=5, logits_processors=(named("ban_odd"),), top_k=20)
    alone = tokens(outcome([asked] * 3))
    assert tokens(outcome([asked] * 3, half_right(alone))) == alone


@pytest.mark.parametrize(
    "fields",
    [
        {"logits_processors": (named("failing_processor", num_tokens=20),)},
        {"stopping_criteria": (named("failing_criterion", num_tokens=20),)},
    ],
)
@pytest.mark.parametrize("is_drafted", [False, True])
def test_one_that_fails_ends_its_own_request(fields: dict[str, Any], is_drafted: bool) -> None:
    truth = tokens(outcome([params()] * 3))
    drafter = half_right(truth) if is_drafted else None
    found = outcome([params(), params(**fields), params()], drafter)
    assert found["r1"][-1].finish_reason is FinishReason.ERROR
    assert "nothing to divide by" in found["r1"][-1].error
    got = tokens(found)
    num_before = 20 - len(PROMPTS[1]) - ("stopping_criteria" in fields)
    assert got == truth | {"r1": truth["r1"][:num_before]}, "what came before is the same, drafted or not"


def test_scores_of_another_shape_are_a_failure_too() -> None:
    found = outcome([params(), params(logits_processors=(named("shrinks"),)), params()])
    assert "shrinks: scores of shape (1, 199) are needed" in found["r1"][-1].error


def test_drafts_follow_them_and_survive_them() -> None:
    engine = Engine(tiny_loaded("llama"), EngineConfig(block_size=4, num_blocks=64), registry=registry())
    asked = params(logits_processors=(named("ban_odd"),), stopping_criteria=(named("failing_criterion", num_tokens=9),))
    engine.open(Request(request_id="d", prompt_token_ids=(5, 6, 8), params=asked))
    engine.extend("d", 3, [], 4, 2)
    proposed: tuple[int, ...] = ()
    failures = []
    while engine.has_work():
        for delta in engine.step():
            proposed = delta.token_ids or proposed
            failures += [delta.error] if delta.finish_reason is FinishReason.ERROR else []
    assert len(proposed) == 5
    assert all(token % 2 == 0 for token in proposed)
    assert ["nothing to divide by" in error for error in failures] == [True]
    engine.check_integrity()


def test_rows_are_seen_with_their_whole_prefix() -> None:
    seen: list[list[int]] = []

    class Watches(BanEvery):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            seen.append(input_ids[0].tolist())
            return scores

    engine = Engine(
        tiny_loaded("llama"), EngineConfig(block_size=4, num_blocks=64), registry=ProcessorRegistry({"w": Watches})
    )
    request = Request(
        request_id="r",
        prompt_token_ids=(5, 6),
        params=params(max_new_tokens=3, logits_processors=(named("w", step=1),)),
    )
    emitted = tokens(run(engine, [request]))["r"]
    assert seen == [[5, 6], [5, 6, *emitted[:1]], [5, 6, *emitted[:2]]]
