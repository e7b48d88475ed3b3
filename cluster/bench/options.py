"""Options that the measuring commands share, and how their values are read."""

from collections.abc import Callable
from pathlib import Path

import click

from cluster.cluster_options import Command


def counts(low: int, high: int) -> Callable[[click.Context, click.Parameter, str], tuple[int, ...]]:
    """A callback that reads whole numbers with commas between them, such as 1,4,16; each from ``low`` to ``high``."""

    def read(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
        try:
            found = tuple(dict.fromkeys(int(part) for part in value.split(",") if part.strip()))
        except ValueError:
            raise click.BadParameter(f"{value!r} is not a list of whole numbers with commas between them") from None
        if not found or not all(low <= count <= high for count in found):
            raise click.BadParameter(f"whole numbers from {low} to {high} are needed, but it is {value!r}")
        return found

    return read


PATH = click.Path(dir_okay=False, path_type=Path)
RESULT_OPTIONS = (
    click.option("--json", "json_file", type=PATH, help="Write the result, with the machine and versions."),
    click.option("--plot", "plot_file", type=PATH, help="Draw a PNG (needs matplotlib: slipstream[bench])."),
)
RUN_OPTIONS = (
    click.option("--prompts", "prompts_file", type=PATH, help="A prompt a line, or JSON lines.  [default: built in]"),
    click.option("--num-prompts", type=click.IntRange(1), help="Only so many of them, the first."),
    click.option("--max-new-tokens", type=click.IntRange(2), default=64, show_default=True),
    click.option(
        "--draft-lengths",
        callback=counts(1, 64),
        default="1,2,3,4,6",
        metavar="N,N,...",
        show_default=True,
        help="Fixed draft lengths to measure beside the cluster's own choice.",
    ),
    click.option("--repeats", type=click.IntRange(1), default=2, show_default=True, help="Turns of each setting."),
    click.option("--concurrency", type=click.IntRange(1), default=1, show_default=True, help="Requests at a time."),
    click.option("--overlap/--no-overlap", default=None, help="Drafts write ahead, or not.  [default: what pays]"),
    click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True),
)


def options(*groups: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    """Add groups of options to a command."""

    def add(command: Command) -> Command:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return add
