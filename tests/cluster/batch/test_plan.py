import json
from pathlib import Path
from typing import Any

import pytest

from cluster.batch.plan import in_order, read_plan
from cluster.batch.records import BatchError


def line(custom_id: Any, **body: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}) + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


def test_every_line_that_is_not_blank_is_planned_and_found_again(file: Path) -> None:
    lines = [line("a", prompt="é"), "\n", line("b", prompt="x"), "  \n", "garbage\n", line("c", prompt="y").strip()]
    file.write_text("".join(lines))
    plan = read_plan(file)
    assert [(entry.number, entry.key) for entry in plan.entries] == [(1, "a"), (3, "b"), (5, 5), (6, "c")]
    assert [bool(entry.problem) for entry in plan.entries] == [False, False, True, False]
    assert [raw.decode() for raw in plan.read(list(plan.entries))] == [lines[0], lines[2], lines[4], lines[5]]


def test_an_id_on_two_lines_is_refused_with_both_named(file: Path) -> None:
    file.write_text(line("a") + line("b") + line("a").replace("POST", "GET"))
    with pytest.raises(BatchError, match=r"'a' on lines 1, 3"):
        read_plan(file)


def test_many_doubled_ids_are_counted(file: Path) -> None:
    file.write_text("".join(line(f"id-{index // 2}") for index in range(40)))
    with pytest.raises(BatchError, match="and 15 more"):
        read_plan(file)


def test_any_change_of_the_input_shows(file: Path) -> None:
    file.write_text(line("a", prompt="x"))
    before = read_plan(file).sha256
    file.write_text(line("a", prompt="y"))
    assert read_plan(file).sha256 != before


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="no input file"):
        read_plan(tmp_path / "missing.jsonl")


def test_costly_requests_come_first_and_neighbours_stay_together(file: Path) -> None:
    file.write_text(
        line("short", prompt="x", max_tokens=4)
        + line("near 1", prompt="x", max_tokens=64)
        + line("long", prompt="x", max_tokens=512)
        + line("near 2", prompt="x", max_tokens=65)
        + line("long prompt", prompt="x " * 8000, max_tokens=4)
        + line("many", prompt="x", max_tokens=64, n=16)
        + line("chat", max_completion_tokens=1024)
        + line("odd", prompt="x", max_tokens="many", n=-1)
    )
    order = [entry.key for entry in in_order(list(read_plan(file).entries))]
    assert order == ["many", "chat", "long", "long prompt", "near 1", "near 2", "odd", "short"]
