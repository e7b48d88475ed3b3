"""Grammars in the engine: when a sequence ends, what goes with what, and whom a bad grammar concerns."""

import itertools
import re
from typing import Any

import pytest

from actors.engine.engine import Engine
from actors.engine.errors import RequestError
from actors.engine.grammar import ChoiceGrammar, Grammar, JsonSchemaGrammar, LarkGrammar, RegexGrammar
from actors.engine.params import GenerationParams
from actors.engine.request import Delta, FinishReason, Request
from tests.actors.engine.tiny_models import VOCAB_SIZE
from tests.conformance.pairs import EOS, engine, run, text, tokenizer
from tests.conformance.schemas import SCHEMAS

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH
OBJECT = JsonSchemaGrammar(schema=SCHEMAS["object flat"])


def request(grammar: Grammar | None, name: str = "r", emitted: str = "", **params: Any) -> Request:
    fields = {"max_new_tokens": 300, "eos_token_id": (EOS,), **params}
    return Request(
        request_id=name,
        prompt_token_ids=tuple(tokenizer().encode("a prompt")),
        params=GenerationParams(grammar=grammar, **fields),
        emitted_token_ids=tuple(tokenizer().encode(emitted)),
    )


def outcome(grammar: Grammar, **params: Any) -> tuple[str, FinishReason]:
    """What a sequence says and why it ends; its eos token is not shown."""
    ids, reason = run(engine(), [request(grammar, **params)])["r"]
    return text(ids), reason


def deltas(target: Engine) -> list[Delta]:
    """All that comes of a target until it has nothing to do."""
    found = []
    while target.has_work():
        found += target.step()
        target.check_integrity()
    return found


def test_every_kind_of_grammar_is_kept_to() -> None:
    said, _ = outcome(RegexGrammar(pattern="[a-f]{3}-[0-9]{2}"))
    assert re.fullmatch("[a-f]{3}-[0-9]{2}", said)
    assert outcome(ChoiceGrammar(choices=("one", "two", "a third"))) in [(c, STOP) for c in ("one", "two", "a third")]
    said, _ = outcome(LarkGrammar(text='start: item item\nitem: "(" /[xyz]/ ")"'))
    assert re.fullmatch(r"(\([xyz]\)){2}", said)


def test_a_complete_text_ends_without_an_eos_token() -> None:
    for more in ({}, {"eos_token_id": ()}, {"ignore_eos": True}, {"min_new_tokens": 200}):
        ids, reason = run(engine(), [request(RegexGrammar(pattern="[a-z]{5}"), **more)])["r"]
        assert (len(ids), reason) == (5, STOP)
        assert EOS not in ids


def test_a_text_that_may_go_on_ends_by_eos_or_length() -> None:
    grammar = RegexGrammar(pattern="[a-z]+")
    eager = {"logit_bias": {EOS: 100.0}, "max_new_tokens": 9}
    said, reason = outcome(grammar, **eager)
    assert (len(said), reason) == (1, STOP)
    assert (len(outcome(grammar, min_new_tokens=4, **eager)[0]), reason) == (4, STOP)
    said, reason = outcome(grammar, ignore_eos=True, **eager)
    assert (len(said), reason) == (9, LENGTH)
    assert re.fullmatch("[a-z]{9}", said)


def test_stop_strings_and_lengths_cut_a_text_short() -> None:
    assert outcome(RegexGrammar(pattern="aaab{5}"), stop_strings=("ab",)) == ("aaab", STOP)
    said, reason = outcome(OBJECT, max_new_tokens=3)
    assert (len(said), reason) == (3, LENGTH)


@pytest.mark.parametrize("extra", [{}, {"no_repeat_ngram_size": 50}], ids=["vectorized", "list"])
def test_other_processors_hold_as_well(extra: dict[str, Any]) -> None:
    grammar = RegexGrammar(pattern="[ab]{8}")
    (a,) = tokenizer().encode("a")
    assert outcome(grammar, logit_bias={a: 100.0}, **extra)[0] == "a" * 8
    assert outcome(grammar, suppress_tokens=(a,), **extra)[0] == "b" * 8
    assert outcome(grammar, do_sample=True, top_k=1, seed=3, **extra)[0] == outcome(grammar, **extra)[0]
    # The warpers choose among legal tokens: of all tokens the most probable one would be illegal.
    assert re.fullmatch("[ab]{8}", outcome(grammar, do_sample=True, top_p=0.01, seed=1, **extra)[0])
    assert re.fullmatch("[ab]{8}", outcome(grammar, remove_invalid_values=True, **extra)[0])


def test_the_list_and_the_vectorized_form_agree() -> None:
    for params in ({}, {"do_sample": True, "seed": 9, "temperature": 0.8, "top_k": 20, "repetition_penalty": 1.2}):
        plain = outcome(OBJECT, **params)
        assert plain == outcome(OBJECT, no_repeat_ngram_size=250, **params)


def test_log_probabilities_are_those_of_legal_tokens() -> None:
    target = engine()
    target.add(request(RegexGrammar(pattern="[ab]c"), logprobs=5))
    found = [entry for delta in deltas(target) for entry in delta.logprobs or ()]
    assert [len(entry.top) for entry in found] == [2, 1]
    assert found[1].logprob == 0.0


def test_a_sequence_without_a_legal_token_fails_alone() -> None:
    target = engine()
    c = tokenizer().encode("c")[0]
    target.add(request(RegexGrammar(pattern="abc"), "bad", suppress_tokens=(c,)))
    target.add(request(RegexGrammar(pattern="ж"), "unwritable"))
    target.add(request(RegexGrammar(pattern="abc"), "good"))
    ends = {delta.request_id: delta for delta in deltas(target) if delta.finish_reason is not None}
    assert ends["good"].finish_reason is STOP
    assert ends["bad"].finish_reason is FinishReason.ERROR and "every token is ruled out" in ends["bad"].error
    assert ends["unwritable"].finish_reason is FinishReason.ERROR


def test_a_text_goes_on_where_it_was_and_ends_where_it_had() -> None:
    whole, _ = outcome(OBJECT, do_sample=True, seed=4)
    for cut in range(0, len(whole), 5):
        ids, reason = run(engine(), [request(OBJECT, emitted=whole[:cut], do_sample=True, seed=4)])["r"]
        assert (text(ids), reason) == (whole, STOP)
    target = engine()
    for name in ("compiling", "compiled"):  # all had been emitted; only the end had not been told
        target.add(request(OBJECT, name, emitted=whole))
        assert deltas(target) == [Delta(request_id=name, start=len(whole), finish_reason=STOP)]


def test_emitted_ids_that_the_grammar_forbids_fail_their_sequence() -> None:
    target = engine()
    target.add(request(OBJECT, emitted="no JSON"))
    (delta,) = deltas(target)
    assert delta.finish_reason is FinishReason.ERROR and "does not allow" in delta.error


def test_a_bad_grammar_fails_alone_then_at_once() -> None:
    target = engine()
    bad = JsonSchemaGrammar(schema={"not": {}})
    target.add(request(bad, "bad"))
    target.add(request(OBJECT, "good"))
    ends = {delta.request_id: delta for delta in deltas(target) if delta.finish_reason is not None}
    assert ends["bad"].finish_reason is FinishReason.ERROR and "not" in ends["bad"].error
    assert ends["good"].finish_reason is STOP
    with pytest.raises(RequestError, match="not") as caught:  # it is known by now
        target.add(request(bad, "again"))
    assert caught.value.field == "grammar"
    assert target.num_unfinished() == 0


def test_a_model_without_tokenizer_refuses_grammars() -> None:
    target = engine(has_tokenizer=False)
    with pytest.raises(RequestError, match="no tokenizer"):
        target.add(request(OBJECT))
    assert not target.has_work()


def slow_schema() -> JsonSchemaGrammar:
    """Takes a few hundred milliseconds to compile."""
    names = [f"property{index}" for index in range(1500)]
    return JsonSchemaGrammar(
        schema={"type": "object", "properties": {name: {"type": "string", "maxLength": 99} for name in names}}
    )


def test_other_streams_go_on_while_a_grammar_is_compiled() -> None:
    target = engine()
    target.add(request(None, "stream", max_new_tokens=3000, eos_token_id=()))
    for _ in range(3):
        target.step()
    target.add(request(slow_schema(), "slow", max_new_tokens=5))
    num_steps = 0
    for number in itertools.count():
        (*others, last) = sorted(target.step(), key=lambda delta: delta.request_id != "slow")
        assert last.request_id == "stream"
        if others:
            break
        num_steps = number
        target.check_integrity()
    assert num_steps > 5
    assert target.stats().num_running == 2
    target.abort("stream")
    target.abort("slow")
    assert not target.has_work()
    assert target.stats().num_free_blocks == target.stats().num_blocks


def test_a_sequence_can_be_taken_back_while_its_grammar_is_compiled() -> None:
    target = engine()
    target.add(request(slow_schema(), "slow"))
    assert target.has_work()
    assert target.stats().num_waiting == 1
    assert target.step() == []  # it does not wait for the compiler, so that messages are read
    target.abort("slow")
    assert not target.has_work()
    assert deltas(target) == []


def test_many_sequences_preempted_and_drafted_keep_to_their_grammars() -> None:
    requests = [request(OBJECT, f"r{seed}", do_sample=True, seed=seed) for seed in range(12)]
    expected = run(engine(), requests)
    tight = engine(block_size=4, num_blocks=90)
    assert run(tight, requests, engine(is_draft=True)) == expected
    assert tight.stats().num_preemptions > 0
    assert all(reason is STOP for _, reason in expected.values())


def test_proposals_of_a_draft_are_legal() -> None:
    draft = engine(is_draft=True)
    asked = request(RegexGrammar(pattern="[0-9]{40}"), max_new_tokens=60)
    draft.open(asked)
    length = len(asked.prompt_token_ids)
    compiled = draft._sequences["r"].grammar
    assert compiled is not None
    compiled.grammar.future.result()
    draft.extend("r", length, (), 6)
    (first,) = deltas(draft)
    assert re.fullmatch("[0-9]{6}", text(first.token_ids))
    wrong = tokenizer().encode("12x")
    draft.extend("r", length, wrong, 4)  # a correction that this grammar cannot read: on without it
    (second,) = deltas(draft)
    assert len(second.token_ids) == 4
    draft.extend("r", length, tokenizer().encode("77"), 50)  # and back again; it ends with the grammar
    (third,) = deltas(draft)
    assert re.fullmatch("[0-9]{38}", text(third.token_ids))
    assert draft.vocab_size == VOCAB_SIZE
