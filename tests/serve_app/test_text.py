"""Incremental text: whole characters, stop strings, origins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.text import StopFilter, TextDecoder, TextStream, join
from tests.serve_app.fakes import TEXT, TOKENIZER


def test_text_comes_out_whole_and_in_whole_characters() -> None:
    decoder = TextDecoder(TOKENIZER)
    pieces = [decoder.push(token_id) for token_id in TOKENIZER.encode(TEXT)]
    assert "".join(pieces) + decoder.flush() == TEXT
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert "" in pieces  # bytes of one character were held back


def test_an_incomplete_character_comes_at_the_end() -> None:
    ids = TOKENIZER.encode("🙂")
    decoder = TextDecoder(TOKENIZER)
    assert "".join(decoder.push(token_id) for token_id in ids[:-1]) == ""
    assert decoder.flush() == "\N{REPLACEMENT CHARACTER}"


def test_bytes_that_never_make_a_character_do_not_pile_up() -> None:
    lone = TOKENIZER.encode("🙂")[-1]
    decoder = TextDecoder(TOKENIZER)
    text = "".join(decoder.push(lone) for _ in range(100))
    assert 80 <= len(text) <= 100
    assert len(decoder._window) <= 40


def test_special_tokens_make_no_text() -> None:
    decoder = TextDecoder(TOKENIZER)
    assert "".join(decoder.push(token_id) for token_id in [0] * 50) == ""


@given(st.text(max_size=60), st.integers(0, 20))
def test_any_text_survives(text: str, num_prompt_tokens: int) -> None:
    ids = TOKENIZER.encode(text)
    stream = TextStream(TOKENIZER, ids[:num_prompt_tokens])
    got = "".join(piece for token_id in ids for piece, _ in stream.push([token_id]))
    got += "".join(piece for piece, _ in stream.finish())
    assert got == text or num_prompt_tokens  # a prompt that ends inside a character shifts what follows


@given(st.lists(st.text("ab", max_size=4), max_size=12), st.lists(st.text("ab", min_size=1, max_size=5), max_size=3))
def test_stop_strings_cut_where_a_search_of_the_whole_finds_them(pieces: list[str], stops: list[str]) -> None:
    stop_filter = StopFilter(stops)
    out = [segment for piece in pieces for segment in stop_filter.push(piece, False)]
    out += stop_filter.flush()
    whole = "".join(pieces)
    # The stream stops at the stop string that ends first, as soon as it is there.
    end = next((n for n in range(len(whole) + 1) if any(whole[:n].endswith(stop) for stop in stops)), None)
    if end is None:
        assert "".join(text for text, _ in out) == whole
        assert not stop_filter.is_stopped
    else:
        assert stop_filter.is_stopped
        assert whole.startswith("".join(text for text, _ in out))
        assert not any(stop in "".join(text for text, _ in out) for stop in stops)


def test_only_a_beginning_of_a_stop_string_is_held_back() -> None:
    stop_filter = StopFilter(["END"])
    assert stop_filter.push("abE", False) == [("ab", False)]
    assert stop_filter.push("N", False) == []
    assert stop_filter.push("x", True) == [("E", False), ("N", False), ("x", True)]
    assert stop_filter.push("EN", True) == []
    assert stop_filter.flush() == [("EN", True)]


@pytest.mark.parametrize("stop_strings", [(), ("zzz",)])
def test_origins_follow_the_tokens(stop_strings: tuple[str, ...]) -> None:
    ids = TOKENIZER.encode(" The ship")
    stream = TextStream(TOKENIZER, stop_strings=stop_strings)
    segments = stream.push(ids, num_accepted=len(ids) - 1) + stream.finish()
    assert segments == [(" The shi", True), ("p", False)]


def test_join_merges_neighbours_of_one_origin() -> None:
    assert join([("a", True), ("b", True), ("c", False), ("", False), ("d", True)]) == [
        ("ab", True),
        ("c", False),
        ("d", True),
    ]
