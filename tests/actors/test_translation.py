"""Token ids go from one tokenizer to another and back, as they come, and the text stays what it is."""

import random
from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models

from actors.translation import TranslatedText, Translation, whole
from actors.vocabulary import Vocabulary, agree
from tests.actors.tokenizers_of_other_kinds import UNICODE, byte_level, pages, sentencepiece

KINDS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": byte_level,
    "bytes, few": lambda: byte_level(300),
    "bytes, split": lambda: byte_level(800, has_digits_apart=True),
    "pieces": sentencepiece,
    "unigram": lambda: sentencepiece(600, is_unigram=True),
}
PAIRS = [(a, b) for a in KINDS for b in KINDS if a != b]
TEXT = pages()[0][2000:3200] + UNICODE


def vocabulary(kind: str) -> Vocabulary:
    return Vocabulary(KINDS[kind]())


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_spelt_as_the_text_that_they_came_from(kind: str) -> None:
    found = vocabulary(kind)
    spelt = found.spell(found.encode(TEXT))
    assert spelt.removeprefix(b" ") == TEXT.encode().removeprefix(b" ")
    assert (
        found.encode_within("The quick", " brown fox")
        == found.encode("The quick brown fox")[-len(found.encode_within("The quick", " brown fox")) :]
    )
    assert found.spell(found.encode_within("The quick bro", "wn fox")) == b"wn fox"


@pytest.mark.parametrize(("target", "draft"), PAIRS)
def test_a_text_that_grows_is_written_as_if_it_had_come_at_once(target: str, draft: str) -> None:
    translation = Translation(vocabulary(target), vocabulary(draft))
    ids = translation.target.encode(TEXT)
    source = random.Random(1)
    grown = TranslatedText(translation)
    position = 0
    num_written = 0
    while position < len(ids):
        count = source.randint(1, 6)
        before = list(grown.draft_ids)
        start = max(0, position - source.randint(0, 2))
        num_kept = grown.confirm(start, ids[start : position + count])
        assert grown.draft_ids[:num_kept] == before[:num_kept]
        num_written += len(grown.draft_ids) - num_kept
        position = min(len(ids), position + count)
        assert (
            whole(translation.target.spell(ids[:position]))
            == translation.draft.spell(grown.draft_ids)[_extra(translation, grown) :]
        )
    at_once = TranslatedText(translation)
    at_once.confirm(0, ids)
    same = sum(a == b for a, b in zip(grown.draft_ids, at_once.draft_ids, strict=False))
    assert len(grown.draft_ids) <= 1.02 * len(at_once.draft_ids) or same == len(at_once.draft_ids)
    assert num_written < 6 * len(at_once.draft_ids), "only the last words are written again"


def _extra(translation: Translation, text: TranslatedText) -> int:
    """One for the space that some tokenizers put before a text, which is not in it."""
    spelt = translation.draft.spell(text.draft_ids)
    return len(spelt) - len(whole(translation.target.spell(text.target_ids)))


@pytest.mark.parametrize(("target", "draft"), PAIRS)
def test_a_draft_that_is_right_is_proposed_as_the_target_would_write_it(target: str, draft: str) -> None:
    """The draft knows the text: most of what it proposes must be what stands there in the target's ids."""
    translation = Translation(vocabulary(target), vocabulary(draft))
    ids = translation.target.encode(TEXT)
    text = TranslatedText(translation)
    num_right = num_proposed = num_empty = num_asked = 0
    for position in range(1, len(ids) - 12, 3):
        text.confirm(len(text.target_ids), ids[len(text.target_ids) : position])
        known = len(translation.draft.spell(text.draft_ids)) - _extra(translation, text)
        rest = translation.target.spell(ids)[known:].decode()
        drafted = translation.draft.encode_within("x", rest[:40])[:4]
        proposed = text.propose(drafted)
        right = next((n for n, (a, b) in enumerate(zip(proposed, ids[position:], strict=False)) if a != b), None)
        num_right += len(proposed) if right is None else right
        num_proposed += len(proposed)
        num_empty += not proposed
        num_asked += 1
    assert num_proposed > num_asked
    assert num_empty < 0.12 * num_asked
    assert num_right > 0.6 * num_proposed


def test_special_tokens_are_translated_by_their_roles() -> None:
    target, draft = vocabulary("bytes"), vocabulary("bytes, split")
    begin, end = target.ids["<s>"], target.ids["</s>"]
    translation = Translation(target, draft, {draft.ids["<|start|>"]: begin, draft.ids["<|end|>"]: end})
    text = TranslatedText(translation)
    text.confirm(0, [begin, *target.encode("It was a")])
    assert text.draft_ids == [draft.ids["<|start|>"], *draft.encode("It was a")]
    drafted = [*draft.encode(" cluster"), draft.ids["<|end|>"], *draft.encode(" more")]
    assert text.propose(drafted) == [*target.encode(" cluster"), end]
    assert translation.to_draft([end, *target.encode(" the")[:1]])[0] == draft.ids["<|end|>"]


def test_both_draw_with_the_noise_of_the_same_tokens() -> None:
    translation = Translation(vocabulary("bytes"), vocabulary("pieces"))
    noise_ids = translation.noise_ids()
    assert len(set(noise_ids)) == len(noise_ids) or max(noise_ids) < 2 * len(noise_ids) + translation.num_target_ids
    shared = [(i, n) for i, n in enumerate(noise_ids) if n < translation.num_target_ids]
    assert len(shared) > 150
    for draft_id, target_id in shared:
        if draft_id not in translation.special_to_target:
            assert translation.draft.pieces[draft_id] == translation.target.pieces[target_id]


def test_text_is_corrected_back_to_any_place() -> None:
    translation = Translation(vocabulary("bytes"), vocabulary("pieces"))
    ids = translation.target.encode(TEXT)
    text, again = TranslatedText(translation), TranslatedText(translation)
    text.confirm(0, ids[:200])
    text.confirm(50, ids[50:60])
    again.confirm(0, ids[:60])
    assert (text.target_ids, text.draft_ids) == (again.target_ids, again.draft_ids)
    with pytest.raises(KeyError):
        text.confirm(61, ids[61:62])


def test_a_character_is_written_once_it_is_whole() -> None:
    translation = Translation(vocabulary("bytes, few"), vocabulary("pieces"))
    target, draft = translation.target, translation.draft
    ids = target.encode("a 🙂")
    text = TranslatedText(translation)
    text.confirm(0, ids[:-1])
    drafted = draft.encode_within("a ", "🙂")
    if draft.spell(text.draft_ids).endswith(b"a"):
        drafted = draft.encode_within("a", " 🙂")
    assert text.propose(drafted) == ids[-1:]
    assert text.propose(draft.encode_within("a", " b")) == []
    assert whole("é".encode()[:1]) == b""
    assert whole("aé".encode()) == "aé".encode()


def test_tokenizers_that_do_not_keep_the_text_are_refused() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(ValueError, match="WordPiece"):
        Vocabulary(tokenizer)


def test_vocabularies_that_differ_in_a_few_added_tokens_are_one() -> None:
    one = {f"t{n}": n for n in range(1000)}
    assert agree(one, {**one, "<extra>": 1000})
    assert not agree(one, {**one, "t3": 4})
    assert not agree(one, {f"t{n}": n for n in range(500)})
