"""Text as it grows: stop strings, origins, offsets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.text import StopFilter, TextRules, TextStream, join
from tests.serve_app.fakes import TEXT, TOKENIZER


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
    stream = TextStream(TOKENIZER, rules=TextRules(stop_strings=stop_strings))
    segments = stream.push(ids, num_accepted=len(ids) - 1) + stream.finish()
    assert segments == [(" The shi", True), ("p", False)]


def test_join_merges_neighbours_of_one_origin() -> None:
    assert join([("a", True), ("b", True), ("c", False), ("", False), ("d", True)]) == [
        ("ab", True),
        ("c", False),
        ("d", True),
    ]


@pytest.mark.parametrize("include_stop", [False, True])
def test_a_stop_string_is_cut_off_or_kept(include_stop: bool) -> None:
    stream = TextStream(TOKENIZER, rules=TextRules(stop_strings=("ship went", "went"), include_stop=include_stop))
    segments = [segment for token_id in TOKENIZER.encode(TEXT) for segment in stream.push([token_id])]
    assert "".join(text for text, _ in segments) == (" The ship went" if include_stop else " The ")


def test_offsets_say_where_each_token_begins() -> None:
    ids = TOKENIZER.encode(TEXT)
    stream = TextStream(TOKENIZER)
    stream.push(ids)
    assert stream.offsets[0] == 0
    assert stream.offsets == sorted(stream.offsets)
    for offset, token_id, end in zip(stream.offsets, ids, [*stream.offsets[1:], len(TEXT)], strict=True):
        text = TOKENIZER.decode([token_id], skip_special_tokens=False)
        assert "\N{REPLACEMENT CHARACTER}" in text or TEXT[offset:end] == text


def test_what_ends_a_sequence_makes_no_text_where_that_is_asked() -> None:
    ids = TOKENIZER.encode(" The ship")
    stream = TextStream(TOKENIZER)
    whole = join(stream.push(ids[:-1]) + stream.push(ids[-1:], is_last_hidden=True) + stream.finish())
    assert whole == [(TOKENIZER.decode(ids[:-1], skip_special_tokens=True), False)]
    assert len(stream.offsets) == len(ids)


def test_special_tokens_show_where_that_is_asked() -> None:
    assert TextStream(TOKENIZER).push([0]) == []
    assert TextStream(TOKENIZER, rules=TextRules(skip_special_tokens=False)).push([0]) == [("<eos>", False)]
