"""Stopping conditions, stop strings against transformers' own criterion."""

from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, StopStringCriteria

from actors.engine.errors import RequestError
from actors.engine.params import GenerationParams
from actors.engine.request import FinishReason
from actors.engine.stopping import StopState, StopStrings

KINDS = ("byte_level", "byte_fallback", "words")


@lru_cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a few dozen tokens: byte-level BPE, SentencePiece-like with byte fallback, or word pieces."""
    pieces = ["s", "t", "o", "p", "st", "op", "stop", "topper", "a", "b", "ab", "ba", "é", "\n"]
    if kind == "byte_level":
        letters = [*pre_tokenizers.ByteLevel.alphabet()]
        merged = ["st", "op", "stop", "ab", "ba", "Ġa", "Ġst"]
        merges = [("s", "t"), ("o", "p"), ("st", "op"), ("a", "b"), ("b", "a"), ("Ġ", "a"), ("Ġ", "st")]
        vocab = {token: i for i, token in enumerate([*sorted(letters), *merged])}
        backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    elif kind == "byte_fallback":
        tokens = [*(f"<0x{i:02X}>" for i in range(256)), *pieces, "▁", "▁a", "▁stop", "c", "d", "e", "f"]
        backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[], byte_fallback=True))
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        vocab = {token: i for i, token in enumerate([*pieces, "##st", "##op", "##a", "abcdef", "[UNK]"])}
        backend = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def ids_of(pieces: list[str]) -> list[int]:
    vocab = tokenizer("byte_level").get_vocab()
    return [vocab[piece] for piece in pieces]


def state(params: GenerationParams, num_prompt_tokens: int = 3, max_model_len: int = 100) -> StopState:
    return StopState.build(params, num_prompt_tokens, max_model_len, tokenizer("byte_level"), started=50.0)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(KINDS),
    st.lists(st.text("stopab é\n", min_size=1, max_size=6), min_size=1, max_size=3),
    st.lists(st.integers(0, 10_000), min_size=1, max_size=14),
)
def test_stop_strings_equal_transformers(kind: str, stops: list[str], numbers: list[int]) -> None:
    texts = tokenizer(kind)
    frequent = [i for token, i in texts.get_vocab().items() if set(token.strip("Ġ▁#")) <= set("stopab")]
    frequent.append(len(texts) + 3)  # an id that the tokenizer lacks, as in a padded vocabulary
    token_ids = [frequent[number % len(frequent)] for number in numbers]
    try:
        oracle = StopStringCriteria(texts, stops)
    except ValueError:  # no token fits any stop string, so none can ever be found
        oracle = None
    finder = StopStrings(tuple(stops), texts)
    for n in range(1, len(token_ids) + 1):
        expected = oracle is not None and bool(oracle(torch.tensor([token_ids[:n]]), None)[0])
        assert finder.is_complete(token_ids, n) is expected


@pytest.mark.parametrize(
    ("pieces", "is_stopped"),
    [
        (["st", "op"], True),
        (["stop"], True),
        (["a", "s", "t", "o", "p"], True),
        (["o", "st", "op"], True),
        (["stop", "a"], False),
        (["st", "o"], False),
        (["st", "a", "op"], False),
    ],
)
def test_a_stop_string_must_end_in_the_last_token(pieces: list[str], is_stopped: bool) -> None:
    token_ids = ids_of(pieces)
    found = state(GenerationParams(stop_strings=("stop",))).check(token_ids, len(token_ids), 50.0)
    assert (found is FinishReason.STOP) is is_stopped


def test_only_the_first_num_tokens_count() -> None:
    token_ids = ids_of(["a", "st", "op", "b"])
    stopping = state(GenerationParams(stop_strings=("stop",), max_new_tokens=90))
    assert [stopping.check(token_ids, n, 50.0) for n in (1, 2, 3, 4)] == [None, None, FinishReason.STOP, None]


def test_stop_strings_need_a_tokenizer() -> None:
    with pytest.raises(RequestError) as caught:
        StopState.build(GenerationParams(stop_strings=("x",)), 3, 100, None)
    assert caught.value.field == "stop_strings"


def test_any_eos_token_stops() -> None:
    stopping = state(GenerationParams(eos_token_id=(2, 7)))
    assert [stopping.check([1, 1, 1, token], 4, 50.0) for token in (2, 7, 3)] == [FinishReason.STOP] * 2 + [None]


def test_eos_can_be_ignored() -> None:
    stopping = state(GenerationParams(eos_token_id=(2,), ignore_eos=True, max_new_tokens=2))
    assert stopping.check([1, 1, 1, 2], 4, 50.0) is None
    assert stopping.check([1, 1, 1, 2, 2], 5, 50.0) is FinishReason.LENGTH


def test_eos_in_the_last_place_is_a_stop_not_a_length() -> None:
    assert (
        state(GenerationParams(eos_token_id=(2,), max_new_tokens=1)).check([1, 1, 1, 2], 4, 50.0) is FinishReason.STOP
    )


def test_lengths() -> None:
    by_request = state(GenerationParams(max_new_tokens=4))
    by_context = state(GenerationParams(max_new_tokens=4), max_model_len=5)
    ids = [1] * 9
    assert [by_request.check(ids, n, 50.0) for n in (6, 7)] == [None, FinishReason.LENGTH]
    assert [by_context.check(ids, n, 50.0) for n in (4, 5)] == [None, FinishReason.LENGTH]


def test_time_runs_from_the_start() -> None:
    stopping = state(GenerationParams(max_time=2.5))
    assert [stopping.check([1] * 4, 4, now) for now in (51.0, 52.5, 52.6)] == [None, None, FinishReason.TIME]
