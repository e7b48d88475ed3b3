"""Contenders take turns; reports become JSON, tables and pictures."""

import json
from pathlib import Path

import pytest

from actors.engine.errors import ConfigError
from cluster.bench.measure import Bar, Report, interleave, sample, take_turns
from cluster.bench.picture import draw_report
from cluster.bench.suites import list_suites, run_suites

PNG = b"\x89PNG"


def test_contenders_take_turns_and_warm_ups_do_not_count() -> None:
    calls: list[str] = []

    def contender(name: str) -> int:
        calls.append(name)
        return len(calls)

    found = take_turns({"a": lambda: contender("a"), "b": lambda: contender("b")}, repeats=2, is_quiet=True)
    assert calls == ["a", "b"] * 3
    assert found == {"a": [3, 5], "b": [4, 6]}


def test_samples_have_medians_and_ranges() -> None:
    values = iter([9.0, 3.0, 1.0, 2.0])
    found = interleave({"a": lambda: next(values)}, unit="s", repeats=3)["a"]
    assert (found.median, found.low, found.high, found.values) == (2.0, 1.0, 3.0, (3.0, 1.0, 2.0))


def report() -> Report:
    made = Report(name="toy", what="how fast a toy is", settings={"n": 1})
    made.samples = {
        "ours": sample("tok/s", [30.0, 20.0]),
        "theirs": sample("tok/s", [10.0]),
        "wait": sample("ms", [4.0]),
    }
    made.ratio("over theirs", "ours", "theirs", must=2.0, aim=3.0)
    made.bars += [Bar("reported", 5000.0, None), Bar("missed", 0.5, 1.0)]
    return made


def test_a_report_is_written_with_machine_and_versions(tmp_path: Path) -> None:
    content = json.loads(report().save(tmp_path / "new" / "toy.json").read_text())
    assert [bar["is_met"] for bar in content["bars"]] == [True, None, False]
    assert content["bars"][0]["value"] == 2.5
    assert content["machine"]["cores"] >= 1
    assert "torch" in content["machine"]["versions"]
    assert content["taken_at"].endswith("+00:00")
    assert "MISSED must 1" in report().table()


def test_a_report_is_drawn(tmp_path: Path) -> None:
    assert draw_report(report(), tmp_path / "toy.png").read_bytes().startswith(PNG)
    bare = Report(name="bare", what="nothing but a bar", bars=[Bar("one", 1.0, None)])
    assert draw_report(bare, tmp_path / "bare.png").read_bytes().startswith(PNG)


def test_suites_of_the_checkout_are_listed() -> None:
    suites = list_suites()
    assert "single_stream" in suites
    assert all(what for what in suites.values())
    with pytest.raises(ConfigError, match="no suite named nonsense; there are throughput"):
        run_suites(["nonsense"], repeats=1)


def test_an_installed_package_has_no_suites(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is none"):
        list_suites(tmp_path)
