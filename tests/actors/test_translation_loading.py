"""Whether a draft and its target share their ids is found out when the draft is loaded."""

import shutil
from pathlib import Path

import pytest

from actors.config import SimulationConfig, WorkerConfig
from actors.engine.config import ModelConfig
from actors.engine.errors import VocabularyError
from actors.translation_loading import load_translation
from tests.conformance.vocabularies import (
    NUM_SPECIAL,
    NUM_WORDS,
    make_foreign_draft,
    make_target,
    save_tokenizer,
    words,
)

NUM_IDS = NUM_SPECIAL + NUM_WORDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    make_target(folder / "target")
    make_foreign_draft(folder / "foreign", folder / "target")
    shutil.copytree(folder / "target", folder / "bare")
    for file in (folder / "bare").glob("tokenizer*"):
        file.unlink()
    return folder


def worker(folder: Path, draft: str, target: str = "target") -> WorkerConfig:
    return WorkerConfig(model=ModelConfig(model=str(folder / draft)), assists=ModelConfig(model=str(folder / target)))


def test_a_pair_with_one_tokenizer_needs_no_translation(folder: Path) -> None:
    assert load_translation(worker(folder, "target"), NUM_IDS) is None
    shutil.copytree(folder / "target", folder / "copy")
    assert load_translation(worker(folder, "copy"), NUM_IDS) is None
    (folder / "copy" / "tokenizer.json").write_text((folder / "copy" / "tokenizer.json").read_text() + " ")
    assert load_translation(worker(folder, "copy"), NUM_IDS) is None, "spelt otherwise, but the same"
    assert load_translation(worker(folder, "target", "on another host"), NUM_IDS) is None


def test_another_tokenizer_is_translated(folder: Path) -> None:
    found = load_translation(worker(folder, "foreign"), NUM_IDS + 3)
    assert found is not None
    assert found.num_target_ids == NUM_IDS
    assert found.special_to_target == {0: 0, 1: 1, 2: 2, 3: 3}
    noise_ids = found.noise_ids()
    assert len(noise_ids) == NUM_IDS + 3
    assert sum(noise_id >= NUM_IDS for noise_id in noise_ids) == 3, "words that only the draft has"


@pytest.mark.parametrize(("draft", "target"), [("bare", "foreign"), ("foreign", "bare")])
def test_ids_that_differ_and_cannot_be_translated_are_refused(folder: Path, draft: str, target: str) -> None:
    num_ids = NUM_IDS + 3 * (draft == "foreign")
    with pytest.raises(VocabularyError, match=r"has none: name one in its 'tokenizer'"):
        load_translation(worker(folder, draft, target), num_ids)
    assert load_translation(worker(folder, "bare", "target"), NUM_IDS) is None, "as many ids: taken for the same"


def test_tokenizers_that_change_the_text_are_refused(folder: Path) -> None:
    from transformers import BertTokenizer

    odd = folder / "odd"
    shutil.copytree(folder / "foreign", odd, dirs_exist_ok=True)
    save_tokenizer(odd, words())
    vocabulary = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ab"])}
    BertTokenizer(vocab=vocabulary).save_pretrained(odd)
    with pytest.raises(VocabularyError, match="WordPiece"):
        load_translation(worker(folder, "odd"), NUM_IDS + 3)


def test_simulations_and_drafts_of_nobody_have_nothing_to_translate(folder: Path) -> None:
    own = worker(folder, "foreign")
    assert load_translation(WorkerConfig(model=own.model), 5) is None
    assert (
        load_translation(WorkerConfig(model=own.model, assists=own.assists, simulation=SimulationConfig()), 5) is None
    )
