import json
from pathlib import Path

import pytest

from actors.engine.chat_template import find_chat_template, read_chat_template
from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError, ModelNotFoundError, VocabularyError
from actors.engine.tokenizer import check_vocabulary, load_tokenizer
from tests.actors.engine.tiny_models import tiny_tokenizer

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def test_the_models_own_tokenizer_is_loaded(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    tokenizer = load_tokenizer(ModelConfig(model=str(tmp_path)))
    assert tokenizer is not None
    text = "Hello, “wörld”\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_model_without_one_has_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert load_tokenizer(ModelConfig(model=str(tmp_path))) is None


def test_another_tokenizer_can_be_named(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path / "other")
    tokenizer = load_tokenizer(ModelConfig(model="not-asked-for", tokenizer=str(tmp_path / "other")))
    assert tokenizer is not None
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"there are no tokenizer files in .*empty"):
        load_tokenizer(ModelConfig(model="not-asked-for", tokenizer=str(tmp_path / "empty")))


def test_a_tokenizer_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    config = {"auto_map": {"AutoTokenizer": ["code.Own", None]}, "tokenizer_class": "Own"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_tokenizer(ModelConfig(model=str(tmp_path)))


@pytest.mark.parametrize("as_file", [False, True])
def test_a_chat_template_replaces_the_models(tmp_path: Path, as_file: bool) -> None:
    tiny_tokenizer(tmp_path)
    (tmp_path / "mine.jinja").write_text(TEMPLATE)
    given = str(tmp_path / "mine.jinja") if as_file else TEMPLATE
    tokenizer = load_tokenizer(ModelConfig(model=str(tmp_path), chat_template=given))
    assert tokenizer is not None
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_a_chat_template_that_is_neither_file_nor_template_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"chat_template: there is no file /.*mine.jinja"):
        read_chat_template("mine.jinja")


def test_a_chat_template_is_found_without_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    config = ModelConfig(model=str(tmp_path))
    assert find_chat_template(config, tmp_path) is None
    tokenizer.chat_template = {"tool_use": "{{ no }}", "default": TEMPLATE}
    tokenizer.save_pretrained(tmp_path, save_jinja_files=False)
    assert find_chat_template(config, tmp_path) == TEMPLATE
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert find_chat_template(config, tmp_path) == "{{ messages }}"
    assert find_chat_template(ModelConfig(model=str(tmp_path), chat_template="{{ 1 }}"), tmp_path) == "{{ 1 }}"


def test_every_id_of_the_tokenizer_must_be_known_to_the_model(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path, vocab_size=100)
    check_vocabulary(tokenizer, 128)  # rows beyond the tokenizer are padding
    check_vocabulary(tokenizer, 100)
    with pytest.raises(VocabularyError, match=r"goes up to id 99 .* knows ids 0 to 98"):
        check_vocabulary(tokenizer, 99)
    tokenizer.add_tokens(["<added>"])
    with pytest.raises(VocabularyError, match=r"id 100 \('<added>'\)"):
        check_vocabulary(tokenizer, 100)
