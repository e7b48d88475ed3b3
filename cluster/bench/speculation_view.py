"""What speculation came to, as a table and as pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from actors.status import StepTime
from cluster.bench.speculation import Figures

Cell = Callable[[Figures], str]

SPEED_COLUMNS: Mapping[str, Cell] = {
    "setting": lambda f: f.name,
    "tokens/s a stream": lambda f: f"{f.speed.median:.1f} ({f.speed.low:.1f}-{f.speed.high:.1f})",
    "in all": lambda f: f"{f.throughput.median:.1f}",
    "first token": lambda f: f"{f.first_token.median * 1e3:.0f} ms",
    "speed-up": lambda f: f"{f.speedup.median:.2f} ({f.speedup.low:.2f}-{f.speedup.high:.2f})",
}
MODEL_COLUMNS: Mapping[str, Cell] = {
    "setting": lambda f: f.name,
    "k": lambda f: f"{f.mean_draft_length:.1f}",
    "a": lambda f: _two(f.acceptance),
    "V": lambda f: _two(f.verify),
    "c": lambda f: _two(f.draft),
    "predicted": lambda f: "" if f.predicted is None else _two(f.predicted.median),
    "of it": lambda f: "" if f.measured_over_predicted is None else _two(f.measured_over_predicted.median),
    "bubbles": lambda f: f"{f.target_bubbles:.0%}, {f.draft_bubbles:.0%}",
    "ready": lambda f: f"{f.ahead_hits:.0%}",
}
LEGEND = (
    "k: tokens drafted for a check, on average. a: chance that a drafted token is right where those before it are. V: "
    "a check over a plain forward. c: a draft's forward over that. predicted: speed-up E/(V + k c) of synchronous "
    "speculation; of it: measured over that. bubbles: share of the time in which targets, drafts stood still for the "
    "other. ready: checks whose drafts were there when the step before had ended."
)


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def figures_tables(found: Sequence[Figures]) -> Iterator[Table]:
    """A row for each setting: its speed; then, where anything was drafted, how that came about."""
    yield _table(SPEED_COLUMNS, found)
    drafted = [one for one in found if one.mean_draft_length]
    if drafted:
        yield _table(MODEL_COLUMNS, drafted)


def _table(columns: Mapping[str, Cell], found: Sequence[Figures]) -> Table:
    table = Table(header_style="bold")
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "setting" else "right", no_wrap=True)
    for one in found:
        table.add_row(*(cell(one) for cell in columns.values()))
    return table


def positions_table(found: Sequence[Figures]) -> Table | None:
    """How many checks took the token at each position of a draft; None where nothing was drafted."""
    drafted = [one for one in found if one.acceptance_by_position]
    if not drafted:
        return None
    width = max(len(one.acceptance_by_position) for one in drafted)
    table = Table("accepted at position", *map(str, range(1, width + 1)), header_style="bold")
    for one in drafted:
        table.add_row(one.name, *(f"{share:.0%}" for share in one.acceptance_by_position))
    return table


def curve(step_times: Sequence[StepTime]) -> list[tuple[float, float]]:
    """(tokens, mean milliseconds) of forwards, in order."""
    return [(e.num_tokens / e.num_steps, 1e3 * e.seconds / e.num_steps) for e in step_times]


def curves_table(target: Sequence[StepTime], draft: Sequence[StepTime]) -> Table:
    """Mean milliseconds of forwards by the tokens in them."""
    by_role = [{e.knot: 1e3 * e.seconds / e.num_steps for e in steps} for steps in (target, draft)]
    table = Table("tokens in a forward", "target, ms", "draft, ms", header_style="bold")
    for knot in sorted(by_role[0].keys() | by_role[1].keys()):
        table.add_row(str(knot), *(f"{times[knot]:.2f}" if knot in times else "" for times in by_role))
    return table


def draw_speedups(panel: Any, found: Sequence[Figures]) -> None:
    """Measured and predicted speed-ups over the draft length; an adapted one as a line across."""
    fixed = [one for one in found if one.num_draft_tokens]
    if fixed:
        ks = [one.num_draft_tokens for one in fixed]
        medians = [one.speedup.median for one in fixed]
        low = [one.speedup.median - one.speedup.low for one in fixed]
        high = [one.speedup.high - one.speedup.median for one in fixed]
        panel.errorbar(ks, medians, yerr=[low, high], marker="o", capsize=3, label="measured")
    predicted = [(one.num_draft_tokens, one.predicted.median) for one in fixed if one.predicted is not None]
    if predicted:
        panel.plot(*zip(*predicted, strict=True), "s--", label="E / (V(k+1) + k c)")
    for one in found:
        if one.num_draft_tokens is None:
            panel.axhline(one.speedup.median, color="tab:green", label=one.name)
    panel.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    panel.set_xticks([one.num_draft_tokens for one in fixed])
    panel.set_xlabel("draft length k")
    panel.set_ylabel("speed-up over plain decoding")
    panel.legend(fontsize=8)
    panel.grid(alpha=0.3)


def draw_positions(panel: Any, found: Sequence[Figures]) -> None:
    """Acceptance over the position in a draft."""
    for one in found:
        shares = one.acceptance_by_position
        if shares:
            panel.plot(range(1, len(shares) + 1), shares, "o-", markersize=4, label=one.name)
    panel.set_xticks(range(1, 1 + max((len(one.acceptance_by_position) for one in found), default=0)))
    panel.set_ylim(0, 1.02)
    panel.set_xlabel("position in a draft")
    panel.set_ylabel("share of checks that took it")
    if any(one.acceptance_by_position for one in found):
        panel.legend(fontsize=8)
    panel.grid(alpha=0.3)


def draw_curves(panel: Any, target: Sequence[StepTime], draft: Sequence[StepTime]) -> None:
    """Step times over the tokens in a forward."""
    for steps, label, style in ((target, "target", "o-"), (draft, "draft", "s-")):
        points = curve(steps)
        if points:
            panel.plot(*zip(*points, strict=True), style, markersize=4, label=label)
    panel.set_xscale("log", base=2)
    panel.set_xlabel("tokens in a forward")
    panel.set_ylabel("ms")
    panel.set_ylim(bottom=0)
    if target or draft:
        panel.legend(fontsize=8)
    panel.grid(alpha=0.3)
