"""Masks on scores: the rows they are meant for, in either way of unpacking."""

import numpy as np
import pytest
import torch

from actors.engine.grammar import RegexGrammar
from actors.engine.grammar_compiler import GrammarCompiler
from actors.engine.grammar_mask import GrammarMask, mask_scores, unpack_on_device, unpack_on_host
from actors.engine.grammar_state import GrammarState
from actors.engine.params import GenerationParams
from tests.actors.engine.tiny_models import VOCAB_SIZE
from tests.conformance.pairs import EOS, tokenizer

MINUS_INF = float("-inf")


def begun(pattern: str, *, vocab_size: int = VOCAB_SIZE) -> GrammarState:
    params = GenerationParams(grammar=RegexGrammar(pattern=pattern), eos_token_id=(EOS,))
    state = GrammarState.begin(params, 1, GrammarCompiler(tokenizer(), vocab_size), is_draft=False)
    assert state is not None
    return state


@pytest.mark.parametrize("vocab_size", [1, 7, 8, 9, 199, 4096])
def test_both_ways_of_unpacking_agree(vocab_size: int) -> None:
    bits = np.random.RandomState(0).randint(0, 256, (5, (vocab_size + 7) // 8)).astype(np.uint8)
    on_host = unpack_on_host(bits, vocab_size)
    assert on_host.shape == (5, vocab_size)
    assert on_host.dtype == torch.bool
    assert torch.equal(on_host, unpack_on_device(torch.from_numpy(bits), vocab_size))
    assert on_host[2, 0].item() == bool(bits[2, 0] & 1)


def test_only_the_rows_asked_for_are_masked() -> None:
    a, b, c = tokenizer().encode("abc")
    scores = torch.zeros(4, VOCAB_SIZE)
    state = begun("a(b|c)")
    errors = mask_scores(scores, {1: (state, [9], 1), 2: (state, [9, a, 7], 2), 3: (state, [9, b], 2)})
    assert list(errors) == [3]
    assert "does not allow" in errors[3]
    open_ids = [(row > MINUS_INF).nonzero().flatten().tolist() for row in scores]
    everything = list(range(VOCAB_SIZE))
    assert open_ids == [everything, [a], [b, c], everything]


def test_logits_may_be_wider_than_the_tokenizer() -> None:
    scores = torch.zeros(1, VOCAB_SIZE + 58)
    mask_scores(scores, {0: (begun("[ab]", vocab_size=VOCAB_SIZE + 58), [9], 1)})
    assert (scores > MINUS_INF).nonzero()[:, 1].tolist() == tokenizer().encode("ab")


def test_the_processor_leaves_its_input_alone() -> None:
    (a,) = tokenizer().encode("a")
    scores = torch.zeros(1, VOCAB_SIZE)
    masked = GrammarMask(begun("ab"))(torch.tensor([[9]]), scores)
    assert (masked > MINUS_INF).nonzero().tolist() == [[0, a]]
    assert scores.min() == 0
