"""Every output under a JSON schema is an instance of it, and no output knows whether it was drafted."""

import json
from functools import cache

import jsonschema
import pytest

from actors.engine.grammar import JsonSchemaGrammar
from actors.engine.params import GenerationParams
from actors.engine.request import FinishReason, Request
from tests.conformance.pairs import EOS, engine, run, text, tokenizer
from tests.conformance.schemas import SCHEMAS

WHITESPACE = (None, "", " ?")  # by turns: the default, none, a space
Outputs = dict[str, tuple[list[int], FinishReason]]


def request(index: int, name: str, *, do_sample: bool) -> Request:
    """A prompt of some length that is the schema's name, and parameters that differ from schema to schema."""
    grammar = JsonSchemaGrammar(schema=SCHEMAS[name], whitespace_pattern=WHITESPACE[index % len(WHITESPACE)])
    params = GenerationParams(
        max_new_tokens=3000,
        eos_token_id=(EOS,),
        grammar=grammar,
        do_sample=do_sample,
        seed=index,
        temperature=0.7 if do_sample and index % 3 == 0 else None,
        top_k=5 if do_sample and index % 3 == 1 else None,
        top_p=0.9 if do_sample and index % 3 == 2 else None,
        repetition_penalty=1.1 if index % 4 == 1 else None,
        no_repeat_ngram_size=20 if index % 8 == 2 else None,
    )
    return Request(request_id=name, prompt_token_ids=tuple(tokenizer().encode(name)), params=params)


@cache
def outputs(*, do_sample: bool, is_drafted: bool) -> tuple[Outputs, float]:
    """All schemas in one batch, and how many of the drafted tokens were accepted."""
    requests = [request(index, name, do_sample=do_sample) for index, name in enumerate(SCHEMAS)]
    target = engine()
    found = run(target, requests, engine(is_draft=True) if is_drafted else None)
    stats = target.stats()
    return found, stats.num_accepted_tokens / max(1, stats.num_draft_tokens)


def test_there_are_a_hundred_schemas() -> None:
    assert len(SCHEMAS) >= 100
    assert len({json.dumps(schema) for schema in SCHEMAS.values()}) == len(SCHEMAS)


@pytest.mark.parametrize("do_sample", [False, True], ids=["greedy", "sampled"])
def test_every_output_is_an_instance_of_its_schema(do_sample: bool) -> None:
    found, _ = outputs(do_sample=do_sample, is_drafted=False)
    for name, (token_ids, reason) in found.items():
        assert reason is FinishReason.STOP, f"{name}: {text(token_ids)[:200]}"
        jsonschema.validate(json.loads(text(token_ids)), SCHEMAS[name], jsonschema.Draft202012Validator)


@pytest.mark.parametrize("do_sample", [False, True], ids=["greedy", "sampled"])
def test_no_output_knows_whether_it_was_drafted(do_sample: bool) -> None:
    plain, _ = outputs(do_sample=do_sample, is_drafted=False)
    drafted, rate = outputs(do_sample=do_sample, is_drafted=True)
    assert drafted == plain
    assert 0.3 < rate < 1.0, "drafts were both right and wrong"
