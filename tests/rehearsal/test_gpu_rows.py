"""The GPU's benchmarks, rehearsed on a CPU with a tiny model: that every row runs, writes and counts rightly."""

import json
from pathlib import Path

import pytest

from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from cluster.bench.measure import Bar, Report
from tests.gpu.benchmarks.device import Device, union_seconds
from tests.gpu.benchmarks.lab import Lab
from tests.gpu.benchmarks.one_stream import num_equal
from tests.gpu.benchmarks.options import Options, parse
from tests.gpu.benchmarks.rows import Row, rows_of, run_rows
from tests.gpu.benchmarks.streams import Drafted, run_assisted, run_plain
from tests.gpu.random_models import SHAPES, as_loaded, random_model, set_damping, share


def rehearsal(out: Path, *more: str) -> Options:
    given = ["--shape", "tiny", "--device", "cpu", "--repeats", "1", "--num-new-tokens", "8", "--num-streams", "2"]
    return parse([*given, "--out", str(out), *more])


@pytest.mark.slow
def test_every_row_runs_and_leaves_its_results(tmp_path: Path) -> None:
    options = rehearsal(tmp_path)
    assert run_rows(rows_of(options), Lab(options, Device("cpu"))) in (0, 1)  # bars mean nothing here
    names = {"bandwidth", "widths_tiny", "one_stream_tiny", "assisted_tiny", "host_tiny", "many_streams_tiny"}
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {f"gpu_{name}.{kind}" for name in names | {"burst_tiny"} for kind in ("json", "png")}
    for path in tmp_path.glob("*.json"):
        found = json.loads(path.read_text())
        assert found["samples"] and found["settings"]["device"]["name"] == "cpu", path
        assert found["machine"]["versions"]["transformers"], path
    assisted = json.loads((tmp_path / "gpu_assisted_tiny.json").read_text())
    assert {bar["name"] for bar in assisted["bars"]} >= {"over our plain", "over transformers' assisted", "acceptance"}
    assert assisted["settings"]["models"]["target_engine"]["seconds_to_build"] > 0


def test_a_row_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    def fails(lab: Lab) -> Report:
        raise ValueError("no such kernel")

    def reports(lab: Lab) -> Report:
        return Report("sound", "something", bars=[Bar("a bar", 2.0, 1.0)])

    lab = Lab(rehearsal(tmp_path), Device("cpu"))
    assert run_rows([Row(1, "bad row", 1, fails), Row(2, "good", 1, reports)], lab) == 2
    assert "no such kernel" in json.loads((tmp_path / "gpu_bad_row_failed.json").read_text())["notes"][-1]
    assert json.loads((tmp_path / "sound.json").read_text())["bars"][0]["is_met"]
    assert run_rows([Row(2, "good", 1, reports)], lab) == 0


def test_no_row_begins_after_the_deadline(tmp_path: Path) -> None:
    begun: list[int] = []

    def reports(lab: Lab) -> Report:
        begun.append(1)
        return Report("slow", "something")

    lab = Lab(rehearsal(tmp_path, "--deadline", "1e-9"), Device("cpu"))
    run_rows([Row(1, "one", 1, reports), Row(2, "two", 1, reports)], lab)
    assert not begun


def test_rows_are_chosen_by_number_and_70b_is_asked_for(tmp_path: Path) -> None:
    assert [row.name for row in rows_of(rehearsal(tmp_path, "--rows", "1,3"))] == ["bandwidth", "widths tiny"]
    both = rows_of(parse(["--with-70b", "--rows", "3,4"]))
    assert [row.name for row in both] == ["widths 8B", "assisted 8B", "widths 70B", "assisted 70B"]


def test_assisted_runs_emit_what_plain_ones_do() -> None:
    model = random_model(SHAPES["tiny"], "cpu")
    draft_model = share(model, 1)
    set_damping(model, 1, 0.06)
    config = EngineConfig(num_blocks=16, prefix_cache=False)
    target, draft = (Engine(as_loaded(m, 16), config) for m in (model, draft_model))
    prompt = list(range(1, 20))
    account = Drafted()
    assert run_assisted(target, draft, prompt, 24, 3, account) == 24
    assert account.ids == run_plain(target, [prompt], 24)
    assert 0 < account.acceptance <= 1
    assert account.num_checks + account.num_accepted == 23  # the first id came with the prompt
    assert account.tokens_per_check == pytest.approx(23 / account.num_checks)
    assert target.num_unfinished() == 0 and not draft.has_work()


def test_busy_time_counts_short_gaps_in_and_long_ones_out() -> None:
    assert union_seconds([], 1.0) == 0.0
    assert union_seconds([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (3.5, 4.0)], 0.5) == pytest.approx(5.0)


def test_equal_ids_are_counted_from_the_first_on() -> None:
    assert [num_equal(*pair) for pair in (([1, 2, 3], [1, 2, 4]), ([1], [1, 2]), ([2], [1]))] == [2, 1, 0]
