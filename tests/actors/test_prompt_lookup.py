"""What prompt lookup proposes is what transformers' own class proposes, found by an index that only grows."""

import random
from collections.abc import Sequence

import pytest
import torch
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

from actors.prompt_lookup import PromptLookup


def reference(ids: Sequence[int], num_tokens: int, max_ngram_size: int) -> list[int]:
    """transformers' candidates, without an eos token and far from any bound."""
    generator = PromptLookupCandidateGenerator(
        num_output_tokens=num_tokens, max_matching_ngram_size=max_ngram_size, max_length=10**6
    )
    found, _ = generator.get_candidates(torch.LongTensor([list(ids)]))
    return [int(token) for token in found[0, len(ids) :]]


@pytest.mark.parametrize("max_ngram_size", [1, 2, 3, 7])
@pytest.mark.parametrize("alphabet", [1, 2, 3, 12])
def test_candidates_are_those_of_transformers(alphabet: int, max_ngram_size: int) -> None:
    source = random.Random(alphabet * 10 + max_ngram_size)
    for _ in range(6):
        ids: list[int] = []
        lookup = PromptLookup(4, max_ngram_size)
        while len(ids) < 60:
            ids += [source.randrange(alphabet) for _ in range(source.randint(1, 5))]
            assert list(lookup.propose(ids)) == reference(ids, 4, max_ngram_size), ids


def test_text_that_repeats_is_proposed_again() -> None:
    words = [5, 6, 7, 8, 9]
    assert list(PromptLookup(10, 2).propose([*words, 1, 5, 6])) == [7, 8, 9, 1, 5, 6]
    assert list(PromptLookup(10, 2).propose([1, 2, 3])) == []
