"""Where a sequence stands in its grammar is a function of its ids, whatever was asked before."""

import random

import numpy as np
import pytest
from llguidance import LLParserLimits

from actors.engine.errors import GenerationError, RequestError
from actors.engine.grammar import ChoiceGrammar, Grammar, JsonSchemaGrammar, RegexGrammar
from actors.engine.grammar_compiler import MAX_NUM_GRAMMARS, GrammarCompiler
from actors.engine.grammar_state import GrammarState, _num_common
from actors.engine.params import GenerationParams
from tests.actors.engine.tiny_models import VOCAB_SIZE
from tests.conformance.pairs import EOS, tokenizer
from tests.conformance.schemas import SCHEMAS

PROMPT = [7, 8, 9]
INVOICE = JsonSchemaGrammar(schema=SCHEMAS["invoice"])


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(tokenizer(), VOCAB_SIZE)


def state(compiler: GrammarCompiler, grammar: Grammar, *, is_draft: bool = False, **params: object) -> GrammarState:
    fields = {"eos_token_id": (EOS,), **params}
    begun = GrammarState.begin(
        GenerationParams(grammar=grammar, **fields),  # type: ignore[arg-type]
        len(PROMPT),
        compiler,
        is_draft=is_draft,
    )
    assert begun is not None
    begun.grammar.future.result()
    return begun


def ids(text: str) -> list[int]:
    return [*PROMPT, *tokenizer().encode(text)]


def legal(at: GrammarState, text: str) -> set[str]:
    """Tokens that may follow, as text; an eos token as "<eos>"."""
    sequence = ids(text)
    bits = at.legal(sequence, len(sequence))
    assert bits is not None
    allowed = np.flatnonzero(np.unpackbits(bits, count=VOCAB_SIZE, bitorder="little")).tolist()
    return {"<eos>" if token == EOS else str(tokenizer().decode([token])) for token in allowed}


def walk(compiler: GrammarCompiler, source: random.Random, length: int) -> list[int]:
    """A random text of the grammar, not always whole."""
    at = state(compiler, INVOICE)
    sequence = list(PROMPT)
    while len(sequence) < len(PROMPT) + length and not at.is_complete(sequence, len(sequence)):
        bits = at.legal(sequence, len(sequence))
        assert bits is not None
        sequence.append(source.choice(np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist()))
    return sequence


def test_the_mask_is_a_function_of_the_prefix_alone(compiler: GrammarCompiler) -> None:
    source = random.Random(0)
    texts = [walk(compiler, source, 80) for _ in range(3)]
    busy = state(compiler, INVOICE)
    for _ in range(150):
        sequence = source.choice(texts)
        num_ids = source.randint(len(PROMPT), len(sequence))
        if source.random() < 0.3:  # and sometimes it is asked about drafts that lead nowhere
            wrong = [*sequence[:num_ids], source.randrange(VOCAB_SIZE), source.randrange(VOCAB_SIZE)]
            try:
                busy.legal(wrong, len(wrong))
            except GenerationError:
                assert not busy.is_complete(wrong, len(wrong))
        fresh = state(compiler, INVOICE)
        expected, got = fresh.legal(sequence, num_ids), busy.legal(sequence, num_ids)
        assert expected is not None and got is not None
        assert np.array_equal(expected, got)
        assert fresh.is_complete(sequence, num_ids) == busy.is_complete(sequence, num_ids)


def test_eos_is_legal_only_where_the_text_may_end(compiler: GrammarCompiler) -> None:
    grammar = RegexGrammar(pattern="ab(cd)?")
    at = state(compiler, grammar)
    assert legal(at, "") == {"a"}
    assert legal(at, "ab") == {"c", "<eos>"}
    assert legal(at, "abc") == {"d"}
    assert legal(state(compiler, grammar, ignore_eos=True), "ab") == {"c"}
    assert legal(state(compiler, grammar, eos_token_id=()), "ab") == {"c"}


def test_a_token_that_is_text_and_end_ends_only_where_the_text_may(compiler: GrammarCompiler) -> None:
    c = tokenizer().encode("c")[0]
    at = state(compiler, RegexGrammar(pattern="a(c|d)b?"), eos_token_id=(c,))
    assert legal(at, "a") == {"d"}
    assert legal(at, "ad") == {"b", "c"}


def test_a_text_is_complete_where_it_can_only_end(compiler: GrammarCompiler) -> None:
    at = state(compiler, ChoiceGrammar(choices=("yes", "yesterday", "no")))
    complete = {text: at.is_complete(ids(text), len(ids(text))) for text in ("", "n", "no", "yes", "yesterday", "ye")}
    assert [text for text, is_complete in complete.items() if is_complete] == ["no", "yesterday"]


def test_ids_that_are_not_legal_are_an_error_and_no_harm(compiler: GrammarCompiler) -> None:
    at = state(compiler, RegexGrammar(pattern="abc"))
    for wrong in (ids("ax"), [*ids("ab"), EOS]):
        with pytest.raises(GenerationError, match="does not allow token"):
            at.legal(wrong, len(wrong))
    assert legal(at, "ab") == {"c"}


def test_a_draft_goes_on_without_what_it_cannot_read(compiler: GrammarCompiler) -> None:
    at = state(compiler, RegexGrammar(pattern="abc"), is_draft=True)
    wrong = ids("xy")
    assert at.legal(wrong, len(wrong)) is None
    assert not at.is_complete(wrong, len(wrong))
    assert legal(at, "a") == {"b"}
    unable = GrammarCompiler(None, VOCAB_SIZE)
    params = GenerationParams(grammar=RegexGrammar(pattern="abc"))
    assert GrammarState.begin(params, 1, unable, is_draft=True) is None
    with pytest.raises(RequestError, match="no tokenizer") as caught:
        GrammarState.begin(params, 1, unable, is_draft=False)
    assert caught.value.field == "grammar"


BRANCHING = RegexGrammar(pattern="(a|b)*a(a|b){14}")  # 2^15 states, of which a short text needs few


def limited(num_states: int) -> GrammarCompiler:
    return GrammarCompiler(tokenizer(), VOCAB_SIZE, LLParserLimits(max_lexer_states=num_states))


def test_a_parser_whose_shared_states_are_used_up_begins_anew() -> None:
    # The states of a lexer are shared by all sequences with one grammar; what one of them may use must not hang on what
    # others have used.
    small = limited(400)
    source = random.Random(0)
    for _ in range(30):
        at = state(small, BRANCHING)
        text = "".join(source.choice("ab") for _ in range(40))
        for num_letters in range(len(text)):
            assert {"a", "b"} <= legal(at, text[:num_letters])


def test_a_limit_that_one_text_reaches_alone_fails_it() -> None:
    source = random.Random(0)
    at = state(limited(400), BRANCHING)
    sequence = ids("".join(source.choice("ab") for _ in range(1000)))
    with pytest.raises(GenerationError, match="gave up"):
        at.legal(sequence, len(sequence))
    assert not at.is_complete(sequence, len(sequence))
    assert "a" in legal(at, "ab")


def test_grammars_are_compiled_once_and_the_oldest_are_forgotten(compiler: GrammarCompiler) -> None:
    first = compiler.compile(INVOICE).future
    assert compiler.compile(JsonSchemaGrammar(schema=dict(SCHEMAS["invoice"]))).future is first
    for number in range(MAX_NUM_GRAMMARS):
        compiler.compile(RegexGrammar(pattern=f"{number}"))
    assert compiler.compile(INVOICE).future is not first


def test_a_grammar_that_does_not_compile_says_so(compiler: GrammarCompiler) -> None:
    fault = compiler.compile(JsonSchemaGrammar(schema={"not": {}})).fault()
    assert fault is not None and "not" in str(fault) and fault.field == "grammar"


def test_common_prefixes() -> None:
    source = random.Random(3)
    for _ in range(300):
        a = [source.randrange(2) for _ in range(source.randrange(12))]
        b = a[: source.randrange(13)] + [source.randrange(2) for _ in range(source.randrange(5))]
        expected = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert _num_common(a, b) == expected
