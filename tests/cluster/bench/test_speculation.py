"""What speculation brings, measured on a cluster whose costs are known."""

import io

import pytest
from rich.console import Console

from actors.config import RouterConfig
from actors.engine.errors import GenerationError
from actors.status import StepTime
from cluster.bench.cost_model import acceptance_of, drafting_seconds, predicted_speedup, seconds_of
from cluster.bench.speculation import Figures, figures, measure, settings
from cluster.bench.speculation_view import curves_table, figures_tables, positions_table
from tests.cluster.bench.fakes import PREFILL, TimedCluster, requests


def measured(cluster: TimedCluster, *draft_lengths: int, num_new: int = 61, concurrency: int = 1) -> dict[str, Figures]:
    with cluster.runner() as runner:
        of_settings = settings(RouterConfig(), runner.stats(), draft_lengths)
        turns = measure(runner, requests(num_new), of_settings, repeats=2, concurrency=concurrency)
    assert cluster.is_closed
    return {one.name: one for one in figures(turns, of_settings)}


def rising(num_tokens: int) -> float:
    return 0.010 + 0.001 * (num_tokens - 1)


def test_what_has_no_overhead_measures_as_the_model_predicts() -> None:
    found = measured(TimedCluster(verify=rising, num_right=9), 1, 3)
    for k in (1, 3):
        one = found[f"k = {k}"]
        assert one.acceptance == 1.0
        assert one.mean_draft_length == k
        assert one.verify == pytest.approx(rising(k + 1) / 0.010)
        assert one.draft == pytest.approx(0.2)
        assert one.predicted is not None
        assert one.predicted.median == pytest.approx((k + 1) / (1.0 + 0.1 * k + 0.2 * k))
        assert one.speedup.median == pytest.approx(one.predicted.median)
        assert one.measured_over_predicted is not None
        assert one.measured_over_predicted.values == pytest.approx((1.0, 1.0))
    assert found["plain"].speed.median == pytest.approx(100.0)
    assert found["plain"].first_token.median == pytest.approx(PREFILL)
    assert found["plain"].throughput.median < 100.0, "prompts are counted there"
    assert found["plain"].acceptance is None
    assert found["plain"].draft is None
    assert found["plain"].predicted is None


def test_acceptance_by_position_and_bubbles() -> None:
    one = measured(TimedCluster(num_right=2), 4)["k = 4"]
    assert one.acceptance_by_position[:4] == (1.0, 1.0, 0.0, 0.0)
    assert one.acceptance == pytest.approx(2 / 3, abs=0.02)
    round_seconds = 4 * 0.002 + 0.010
    assert one.target_bubbles == pytest.approx(4 * 0.002 / round_seconds, rel=0.2)
    assert one.draft_bubbles == 0.0


def test_an_adapted_length_is_measured_but_not_predicted() -> None:
    found = measured(TimedCluster(num_right=9))
    assert list(found) == ["plain", "adaptive"]
    assert found["adaptive"].predicted is None
    assert found["adaptive"].mean_draft_length == pytest.approx(2.0)
    assert found["adaptive"].speedup.median > 1.5


def test_several_streams_are_not_predicted() -> None:
    assert measured(TimedCluster(num_right=9), 1, concurrency=2)["k = 1"].predicted is None


def test_without_drafts_there_is_only_plain_decoding() -> None:
    assert list(measured(TimedCluster(own_length=None), 1, 2)) == ["plain"]


def test_a_length_that_the_cluster_pins_is_called_so() -> None:
    cluster = TimedCluster()
    with cluster.runner() as runner:
        assert settings(RouterConfig(num_assistant_tokens=4), runner.stats(), (2,)) == {
            "plain": 0,
            "pinned, k = 4": None,
            "k = 2": 2,
        }


def test_a_failed_request_ends_the_measurement() -> None:
    with pytest.raises(GenerationError, match="out of memory"):
        measured(TimedCluster(error="out of memory"))


def test_tables_fit_a_terminal() -> None:
    found = list(measured(TimedCluster(), 1, 4).values())
    steps = (StepTime(1, 2, 2, 0.02), StepTime(4, 1, 4, 0.012))
    tables = [*figures_tables(found), positions_table(found), curves_table(steps, steps[:1])]
    console = Console(file=io.StringIO(), width=80)
    for table in tables:
        assert table is not None
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert "k = 4" in text
    assert "12.00" in text
    assert positions_table(found[:1]) is None


def test_cost_model() -> None:
    assert predicted_speedup(0.8, 4, 1.0, 0.0) == pytest.approx(3.3616)  # 1 + .8 + .64 + .512 + .4096
    assert predicted_speedup(0.5, 1, 1.25, 0.25) == pytest.approx(1.0)
    assert acceptance_of(num_accepted=6, num_drafts=4, num_full=2) == 0.75
    assert acceptance_of(0, 0, 0) is None
    steps = (StepTime(1, 2, 2, 0.5), StepTime(3, 1, 3, 0.5), StepTime(64, 1, 64, 9.0))
    assert seconds_of(steps, 1) == 0.25
    assert seconds_of(steps, 2) is None
    assert drafting_seconds(steps) == pytest.approx(1.0 / 3)
    assert drafting_seconds(steps[2:]) is None
