"""Synchronous speculation with real engines: the speed-up that is measured over the one that the cost model predicts.

Acceptance, the cost of a draft's step and that of a check are those of the very turns whose speed is measured, so what
is missing is coordination: messages, waiting, and what target and draft do besides their forwards.
"""

from collections.abc import Callable, Sequence

from actors.config import RouterConfig
from actors.engine.request import Request
from cluster.bench.picture import pyplot, save
from cluster.bench.speculation import Figures, figures, measure, settings
from cluster.bench.speculation_view import draw_speedups
from cluster.config import ClusterConfig
from tests.benchmarks import pairs
from tests.benchmarks.measure import RESULTS, Bar, Report

DRAFT_LENGTHS = (1, 3, 5)
NUM_PROMPTS = 2
NUM_NEW_TOKENS = 96
MUST, AIM = 0.90, 0.97
ROUTER = RouterConfig(overlap=False, draft_timeout=5.0)


def run(repeats: int) -> Report:
    """Measure and report, for each pair the draft length that comes off worst."""
    report = Report(
        name="speculation_model",
        what="synchronous speculation, one greedy stream: measured speed-up over E/(V(k+1)+kc) of the same turns",
        settings={"num_prompts": NUM_PROMPTS, "max_new_tokens": NUM_NEW_TOKENS, "overlap": False},
    )
    found = {
        "synthetic 200M": compared(
            pairs.synthetic(ROUTER), pairs.greedy(pairs.synthetic_prompts(NUM_PROMPTS), NUM_NEW_TOKENS), repeats
        ),
        "embedded": compared(
            pairs.embedded(ROUTER), pairs.greedy(pairs.embedded_prompts(NUM_PROMPTS), NUM_NEW_TOKENS), repeats
        ),
    }
    for pair, of_pair in found.items():
        report.settings[pair] = [one.plain() for one in of_pair]
        for one in of_pair:
            report.samples[f"{pair}, {one.name}"] = one.speed
        ratios = {one.name: one.measured_over_predicted for one in of_pair if one.measured_over_predicted is not None}
        for name, ratio in ratios.items():
            report.samples[f"{pair}, {name}, of predicted"] = ratio
        worst = min(ratios, key=lambda name, known=ratios: known[name].median)  # type: ignore[misc]
        report.bars.append(Bar(f"{pair}: measured / predicted, {worst}", ratios[worst].median, MUST, AIM))
        best = max(of_pair, key=lambda one: one.speedup.median)
        report.bars.append(Bar(f"{pair}: speed-up, {best.name}", best.speedup.median, None))
    report.pictures.append(draw(report.name, found))
    return report


def compared(config: ClusterConfig, requests: Callable[[int | None], Sequence[Request]], repeats: int) -> list[Figures]:
    """The figures of plain decoding and of fixed draft lengths."""
    with pairs.running(config) as runner:
        every = settings(config.router, runner.stats(), DRAFT_LENGTHS)
        of_settings = {name: k for name, k in every.items() if k is not None}
        turns = measure(runner, requests, of_settings, repeats=repeats)
    return figures(turns, of_settings)


def draw(name: str, found: dict[str, list[Figures]]) -> str:
    """Measured and predicted speed-ups of each pair; the picture's name."""
    figure, panels = pyplot().subplots(1, len(found), figsize=(5 * len(found), 4), layout="constrained")
    for panel, (pair, of_pair) in zip(panels, found.items(), strict=True):
        draw_speedups(panel, of_pair)
        panel.set_title(f"{pair}, without overlap", fontsize=10)
    return save(figure, RESULTS / f"{name}.png").name
