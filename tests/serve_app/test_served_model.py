"""Tokenizers from files: straight from tokenizer.json where that says all, through transformers otherwise."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError, ModelNotFoundError
from serve_app.served_model import read_tokenizer
from tests.serve_app.fakes import EOS, TEXT, TOKENIZER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with a tokenizer."""
    PreTrainedTokenizerFast(tokenizer_object=TOKENIZER._tokenizer, eos_token=EOS).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("is_plain", [True, False])
def test_both_ways_read_alike(folder: Path, is_plain: bool) -> None:
    file = folder / "tokenizer_config.json"
    if not is_plain:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"add_eos_token": True}))
    tokenizer = read_tokenizer(ModelConfig(model=str(folder)))
    reference = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode(TEXT) == reference.encode(TEXT)
    ids = [0, *TOKENIZER.encode(TEXT), 0]
    for skip in (True, False):
        text = tokenizer.decode(ids, skip_special_tokens=skip)
        assert text == reference.decode(ids, skip_special_tokens=skip)


def test_a_tokenizer_of_its_own_name(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = tmp_path_factory.mktemp("model")
    (model / "config.json").write_text("{}")
    assert read_tokenizer(ModelConfig(model=str(model), tokenizer=str(folder))).encode("The")
    with pytest.raises(ConfigError, match="no tokenizer"):
        read_tokenizer(ModelConfig(model=str(model)))
    with pytest.raises(ModelNotFoundError):
        read_tokenizer(ModelConfig(model=str(model), tokenizer=str(model / "nothing")))
