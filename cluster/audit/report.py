"""What an audit found: plain data, and how it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from actors.status import StepTime
from cluster.audit.divergence import Divergence
from cluster.bench.machine import stamp
from cluster.bench.picture import pyplot, save
from cluster.bench.speculation import Figures
from cluster.bench.speculation_view import (
    LEGEND,
    curve,
    curves_table,
    draw_curves,
    draw_positions,
    draw_speedups,
    figures_tables,
    positions_table,
)

MAX_SHOWN = 20  # divergences that a terminal shows
EXACT_DTYPES = ("float32", "float64")


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Plain against assisted runs of all prompts, in one way of choosing tokens.

    Attributes:
        mode: ``greedy`` or ``sampled``.
        setting: how the assisted runs were drafted.
        num_prompts, num_equal: prompts, and those whose runs were equal to the token.
        num_tokens: tokens that were compared, up to each first divergence.
        divergences: the others, one a prompt.
    """

    mode: str
    setting: str
    num_prompts: int
    num_equal: int
    num_tokens: int
    divergences: tuple[Divergence, ...] = ()


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What was audited, as the workers say of themselves; models with how they were loaded and where."""

    model: str
    targets: tuple[str, ...]
    drafts: tuple[str, ...]
    is_exact: bool
    overlap: str


@dataclass(frozen=True)
class AuditReport:
    """The outcome.

    Attributes:
        subject: what was audited.
        comparisons: of plain and assisted texts.
        figures: of each setting's speed.
        target_steps, draft_steps: forwards of all timed turns.
        settings: how it was audited.
        texts: of tokens that divergences name.
    """

    subject: Subject
    comparisons: tuple[Comparison, ...]
    figures: tuple[Figures, ...]
    target_steps: tuple[StepTime, ...]
    draft_steps: tuple[StepTime, ...]
    settings: dict[str, Any]
    texts: dict[int, str] = field(default_factory=dict)

    @property
    def num_divergences(self) -> int:
        """Over all comparisons."""
        return sum(len(comparison.divergences) for comparison in self.comparisons)

    @property
    def is_broken(self) -> bool:
        """Whether texts differ although the target computes in full precision, where nothing excuses that."""
        return self.subject.is_exact and self.num_divergences > 0

    def plain(self) -> dict[str, Any]:
        """As plain data, with the machine and the time."""
        return {
            "name": "audit",
            "subject": msgspec.to_builtins(self.subject),
            "settings": self.settings,
            "comparisons": [
                msgspec.to_builtins(one) | {"margins": [found.margin for found in one.divergences]}
                for one in self.comparisons
            ],
            "figures": [one.plain() for one in self.figures],
            "step_ms_by_tokens": {
                role: curve(steps) for role, steps in (("target", self.target_steps), ("draft", self.draft_steps))
            },
            **stamp(),
        }

    def show(self, console: Console) -> None:
        """Print all of it."""
        subject = self.subject
        drafts = ", ".join(subject.drafts) or "none"
        console.print(f"[bold]{subject.model}[/]: targets {', '.join(subject.targets)}; drafts {drafts}")
        console.print(f"overlap: {subject.overlap}", highlight=False)
        console.print(comparisons_table(self.comparisons))
        for line in self._verdict():
            console.print(line, highlight=False)
        shown = [(one, found) for one in self.comparisons for found in one.divergences]
        if shown:
            console.print(divergences_table(shown[:MAX_SHOWN], self.texts))
        if len(shown) > MAX_SHOWN:
            console.print(f"... and {len(shown) - MAX_SHOWN} more; --json FILE has all of them")
        for table in figures_tables(self.figures):
            console.print(table)
        console.print(LEGEND, style="dim", highlight=False)
        positions = positions_table(self.figures)
        if positions is not None:
            console.print(positions)
        console.print(curves_table(self.target_steps, self.draft_steps))

    def draw(self, path: Path) -> Path:
        """Draw speed-ups, acceptance and step times as a PNG. Raises ConfigError where matplotlib is missing."""
        figure, panels = pyplot().subplots(1, 3, figsize=(14, 4.2), layout="constrained")
        draw_speedups(panels[0], self.figures)
        draw_positions(panels[1], self.figures)
        draw_curves(panels[2], self.target_steps, self.draft_steps)
        figure.suptitle(f"{self.subject.model}: overlap {self.subject.overlap}", fontsize=11)
        return save(figure, path)

    def _verdict(self) -> list[str]:
        if not self.num_divergences:
            return ["Plain and assisted texts are equal to the token."]
        if self.is_broken:
            return ["[red]Texts differ although the target computes in float32: this must not happen.[/]"]
        return [
            "Texts differ at near ties, which kernels of few bits may decide either way when shapes change; "
            "margins say how near."
        ]


def comparisons_table(comparisons: Sequence[Comparison]) -> Table:
    """A row for each way of choosing tokens and of drafting."""
    table = Table("", "drafting", "prompts", "equal", "tokens compared", "first divergences", header_style="bold")
    for one in comparisons:
        table.add_row(
            one.mode,
            one.setting,
            *map(str, (one.num_prompts, one.num_equal, one.num_tokens, len(one.divergences))),
        )
    return table


def divergences_table(found: Sequence[tuple[Comparison, Divergence]], texts: dict[int, str]) -> Table:
    """A row for each first divergence."""
    table = Table("", "drafting", "prompt", "token", "plain", "assisted", "margin, nats", header_style="bold")
    for comparison, one in found:
        margins = ", ".join("not listed" if m is None else f"{m:.4f}" for m in (one.plain_margin, one.assisted_margin))
        words = [repr(texts.get(token, str(token))) for token in (one.plain_token, one.assisted_token)]
        table.add_row(comparison.mode, comparison.setting, str(one.prompt), str(one.index), *words, margins)
    return table
