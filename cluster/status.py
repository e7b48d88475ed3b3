"""``slipstream status``: the running cluster as a table, or as plain data."""

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from actors.status import ClusterStats, WorkerStatus
from cluster.session import Cluster


def fetch_stats() -> ClusterStats:
    """Ask the router of the cluster that runs. Raises SlipstreamError where none does."""
    with Cluster.connect() as cluster:
        return cluster.stats()


def show_stats(stats: ClusterStats, *, as_json: bool = False) -> None:
    """Print to stdout."""
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(stats)).decode())
        return
    console = Console()
    console.print(workers_table(stats))
    for line in totals(stats):
        console.print(line, highlight=False)


def workers_table(stats: ClusterStats) -> Table:
    """A row for each model actor; on a narrow terminal names wrap, and figures do not."""
    table = Table(title=None, header_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("actor", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in ("model", "pool", "weights", "devices"):
        table.add_column(heading, overflow="fold")
    for heading in ("asked", "KV", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for worker in stats.workers:
        table.add_row(*_row(worker))
    return table


def _row(worker: WorkerStatus) -> tuple[str, ...]:
    info, stats = worker.info, worker.stats
    used = stats.num_blocks - stats.num_free_blocks
    return (
        info.worker_id,
        "[green]alive[/]" if worker.is_alive else f"[red]silent {worker.last_report:.0f} s[/]",
        info.model,
        info.draft_name if info.role == "draft" else info.pool,
        " ".join(filter(None, (info.quantization if info.quantization != "none" else "", info.dtype))),
        ", ".join(info.devices),
        str(worker.num_requests),
        f"{used / stats.num_blocks:.0%}" if stats.num_blocks else "-",
        str(stats.num_generated_tokens),
    )


def totals(stats: ClusterStats) -> list[str]:
    """Totals since the router started, a line each."""
    rate = stats.acceptance_rate
    lines = [
        f"up {_duration(stats.uptime)}; {stats.num_requests} requests running, "
        f"{stats.num_finished} finished, {stats.num_failed} failed; {stats.num_generated_tokens} tokens generated"
    ]
    if rate is None:
        lines.append("nothing drafted yet")
    else:
        per_position = ", ".join(_shares(stats))
        lines.append(
            f"draft length {stats.draft_length}; {stats.num_accepted_tokens} of {stats.num_draft_tokens} drafted "
            f"tokens accepted ({rate:.0%}); by position: {per_position}"
        )
        drafting = stats.drafting
        lines.append(
            f"{drafting.num_rounds} rounds; drafts at hand {drafting.num_ahead_hits} times, from second choices "
            f"{drafting.num_branch_hits}; bubbles: targets {stats.draft_wait_time:.1f} s, "
            f"drafts {drafting.idle_time:.1f} s"
        )
    return lines


def _shares(stats: ClusterStats) -> list[str]:
    return [f"{count / stats.num_drafts:.0%}" for count in stats.num_accepted_tokens_per_pos if stats.num_drafts]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] if hours else []
    parts += [f"{minutes} min"] if minutes else []
    return " ".join([*parts, f"{rest} s"]) if not hours else " ".join(parts)
