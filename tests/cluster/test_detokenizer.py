"""Text from tokens: whole characters, nothing lost, nothing that piles up."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cluster.demo import TARGET_PATH
from cluster.detokenizer import Detokenizer

TOKENIZER = Tokenizer.from_file(str(TARGET_PATH / "tokenizer.json"))
TEXT = "Naïve “été”, 日本 🙂, and so on."
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


def decode(token_ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(token_ids), skip_special_tokens=True))


def encode(text: str) -> list[int]:
    return list(TOKENIZER.encode(text).ids)


def test_text_comes_out_whole_and_in_whole_characters() -> None:
    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.push(token_id) for token_id in encode(TEXT)]
    assert "".join(pieces) + detokenizer.flush() == TEXT
    assert not any(INCOMPLETE in piece for piece in pieces)
    assert "" in pieces  # bytes of one character were held back
    assert detokenizer.num_chars == len(TEXT)


def test_an_incomplete_character_comes_at_the_end() -> None:
    detokenizer = Detokenizer(decode)
    assert "".join(detokenizer.push(token_id) for token_id in encode("🙂")[:-1]) == ""
    assert detokenizer.flush() == INCOMPLETE
    assert detokenizer.flush() == ""


def test_bytes_that_never_make_a_character_do_not_pile_up() -> None:
    seen: list[int] = []

    def count(token_ids: Sequence[int]) -> str:
        seen.append(len(token_ids))
        return decode(token_ids)

    detokenizer = Detokenizer(count)
    text = "".join(detokenizer.push(encode("🙂")[-1]) for _ in range(100))
    assert 80 <= len(text) <= 100
    assert max(seen) <= 40


def test_special_tokens_make_no_text() -> None:
    detokenizer = Detokenizer(decode)
    assert "".join(detokenizer.push(token_id) for token_id in [0] * 50) == ""


@given(st.text(max_size=60))
def test_any_text_survives(text: str) -> None:
    detokenizer = Detokenizer(decode, encode("Once upon a time."))
    assert "".join(map(detokenizer.push, encode(text))) + detokenizer.flush() == text
