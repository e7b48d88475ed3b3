"""``slipstream bench generate``: a model's speed plain, with adapted and with fixed draft lengths, turn by turn."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.status import StepTime
from actors.step_times import sum_step_times
from cluster.bench.machine import stamp
from cluster.bench.picture import pyplot, save
from cluster.bench.prompts import make_requests
from cluster.bench.run_options import RunOptions
from cluster.bench.runs import Runner
from cluster.bench.speculation import Figures, figures, measure, settings
from cluster.bench.speculation_view import LEGEND, draw_curves, draw_speedups, figures_tables
from cluster.config import ClusterConfig


@dataclass(frozen=True)
class GenerateResult:
    """The outcome."""

    model: str
    options: RunOptions
    num_prompts: int
    figures: tuple[Figures, ...]
    target_steps: tuple[StepTime, ...]
    draft_steps: tuple[StepTime, ...]

    def plain(self) -> dict[str, Any]:
        """As plain data, with the machine and the time."""
        settings = {**asdict(self.options), "num_prompts": self.num_prompts}
        found = [one.plain() for one in self.figures]
        return {"name": "generate", "model": self.model, "settings": settings, "figures": found, **stamp()}

    def show(self, console: Console) -> None:
        """Print the table."""
        for table in figures_tables(self.figures):
            console.print(table)
        console.print(LEGEND, style="dim", highlight=False)

    def draw(self, path: Path) -> Path:
        """Draw speed-ups and step times as a PNG. Raises ConfigError where matplotlib is missing."""
        figure, panels = pyplot().subplots(1, 2, figsize=(10, 4.2), layout="constrained")
        draw_speedups(panels[0], self.figures)
        draw_curves(panels[1], self.target_steps, self.draft_steps)
        figure.suptitle(f"{self.model}, {self.options.concurrency} at a time", fontsize=11)
        return save(figure, path)


def measure_generation(
    runner: Runner, config: ClusterConfig, prompts: Sequence[Sequence[int]], options: RunOptions
) -> GenerateResult:
    """Measure a cluster that runs. Raises RequestError and GenerationError where a request is refused, or fails."""
    of_settings = settings(config.router, runner.stats(), options.draft_lengths)

    def requests(num_draft_tokens: int | None) -> Any:
        model = config.target.worker.model
        return make_requests(model, prompts, options.fields, seed=options.seed, num_draft_tokens=num_draft_tokens)

    turns = measure(runner, requests, of_settings, repeats=options.repeats, concurrency=options.concurrency)
    every = [turn for of_setting in turns.values() for turn in of_setting]
    return GenerateResult(
        config.name,
        options,
        len(prompts),
        tuple(figures(turns, of_settings)),
        sum_step_times(turn.target_steps for turn in every),
        sum_step_times(turn.draft_steps for turn in every),
    )
