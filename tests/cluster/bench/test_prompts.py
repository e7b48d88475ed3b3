"""Prompts that come with the package, and those of files."""

from pathlib import Path

import pytest

from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError
from cluster.bench.prompts import MAX_NUM_WORDS, built_in_prompts, make_requests, read_prompts


def test_the_package_brings_prompts() -> None:
    prompts = built_in_prompts()
    assert len(prompts) == 10
    assert all(0 < len(prompt.split()) <= MAX_NUM_WORDS for prompt in prompts)
    assert len(set(prompts)) == len(prompts)


def test_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("One\n\n  Two \n")
    assert read_prompts(file) == ["One", "  Two "]


def test_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "One\\nmore"}\n"Two"\n{"id": 3, "text": "Three"}\n')
    assert read_prompts(file) == ["One\nmore", "Two", "Three"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n\n", "has none"),
        ("a.jsonl", b'{"prompt": "One"}\nTwo\n', "line 2 is not JSON"),
        ("a.jsonl", b'{"question": "One"}\n', "line 1: a text"),
        ("a.jsonl", b'{"prompt": 3}\n', "line 1: a text"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_prompts(tmp_path / name)
    with pytest.raises(ConfigError, match="no file"):
        read_prompts(tmp_path / "missing.txt")


def test_requests_of_one_prompt_share_their_seed_and_nothing_else() -> None:
    fields = {"do_sample": True, "temperature": 0.7, "max_new_tokens": 5}
    runs = [
        make_requests(ModelConfig(model="demo"), [(1, 2), (3,)], fields, seed=5, num_draft_tokens=k) for k in (0, None)
    ]
    for plain, assisted in zip(*runs, strict=True):
        assert plain.params.num_assistant_tokens == 0
        assert assisted.params.num_assistant_tokens is None
        assert plain.params.seed == assisted.params.seed
        assert plain.request_id != assisted.request_id
        assert (plain.params.temperature, plain.params.max_new_tokens) == (0.7, 5)
    assert runs[0][0].params.seed != runs[0][1].params.seed
