"""The picture of :mod:`tests.benchmarks.autoscale`: requests above, replicas and pods of both pools below."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COLOURS = ("tab:blue", "tab:green")


@dataclass(frozen=True)
class Moment:
    """The cluster at one time, in seconds since the load began; replicas that serve, and pods, by role."""

    time: float
    replicas: dict[str, int]
    nodes: dict[str, int]
    num_open: int
    num_finished: int


def draw(moments: Sequence[Moment], high: Mapping[str, int], load_ends: float | None, path: Path) -> None:
    """Write a PNG.

    Args:
        moments: in order.
        high: the most replicas of each pool, by role.
        load_ends: when it did, in seconds since it began; None where it never did.
        path: of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    times = [moment.time for moment in moments]
    figure, panels = pyplot.subplots(1 + len(high), 1, sharex=True, figsize=(9, 7), layout="constrained")
    panels[0].plot(times, [moment.num_open for moment in moments], color="tab:gray")
    panels[0].set_ylabel("requests open")
    for panel, role, colour in zip(panels[1:], high, COLOURS, strict=True):
        pods = [moment.nodes[role] for moment in moments]
        panel.fill_between(times, pods, step="post", alpha=0.2, color=colour, label="pods")
        serving = [moment.replicas[role] for moment in moments]
        panel.step(times, serving, where="post", color=colour, label=f"{role}s that serve")
        panel.set_ylabel(f"{role} pool")
        panel.set_yticks(range(high[role] + 2))
        panel.legend(loc="upper right")
    for panel in panels:
        for moment in (0.0, load_ends):
            if moment is not None:
                panel.axvline(moment, color="black", linewidth=0.8, linestyle=":")
    panels[-1].set_xlabel("seconds since the load began (dotted: it begins and ends)")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
