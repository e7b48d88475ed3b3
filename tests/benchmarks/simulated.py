"""Coordination in virtual time: real loops, engines that only wait. Every figure here is simulated.

Overlapped against synchronous speculation over a grid of acceptance and draft cost; the worst that speculation can do;
adaptive draft lengths against fixed ones in hindsight; and what the router's own work costs, which is measured.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from actors.config import RouterConfig
from tests.benchmarks.measure import RESULTS, Bar, Report
from tests.benchmarks.simulated_cluster import Cluster, StepTimes, flat, rising
from tests.benchmarks.simulated_router import capacity

TARGET_TIME = 0.020
MESSAGE_TIME = 0.0005  # half of what an actor call and its reply take between Ray actors of one host
SECOND = 0.3  # how often the second choice is right where the first is not: the embedded pair's figure, see LOG.md
ACCEPTANCES = (0.5, 0.65, 0.8, 0.95)
COSTS = (0.05, 0.1, 0.2, 0.35, 0.5)
MOST = 24
NUM_TOKENS = 600
LENGTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24)
KNEE = 48  # rows up to which a forward costs the same, where load is varied


def config(*, k: int | None = None, overlap: bool | None = None, branches: bool = True) -> RouterConfig:
    """A router's policy for a run."""
    return RouterConfig(
        num_assistant_tokens=k,
        max_num_assistant_tokens=MOST,
        overlap=overlap,
        branches=branches,
        report_interval=1.0,
        draft_timeout=1.0,
    )


def speed(
    acceptance: float,
    cost: float,
    policy: RouterConfig,
    *,
    streams: int = 1,
    num_tokens: int = NUM_TOKENS,
    second: float = SECOND,
    verify: StepTimes | None = None,
) -> float:
    """Tokens a stream in the time of one plain step of one stream."""
    cluster = Cluster(policy, MESSAGE_TIME)
    cluster.start("target-0", verify or flat(TARGET_TIME))
    cluster.start("draft-0", flat(cost * TARGET_TIME), acceptance, second)
    cluster.submit("target-0", "draft-0", streams, num_tokens)
    cluster.run(lambda: cluster.num_finished == streams)
    return cluster.rate() * TARGET_TIME / streams


def best_fixed(measure: Callable[[int], float], lengths: Iterable[int]) -> tuple[int, float]:
    """The best draft length of a sweep, which ends once three in a row have been worse than the best."""
    best, best_speed, num_worse = 0, 0.0, 0
    for k in lengths:
        found = measure(k)
        best, best_speed, num_worse = (k, found, 0) if found > best_speed else (best, best_speed, num_worse + 1)
        if num_worse == 3:
            break
    return best, best_speed


def dsi_limit(acceptance: float, cost: float) -> float:
    """Tokens a plain step by distributed speculative inference with as many targets as it likes (Timor et al. 2024).

    An accepted token takes the draft's time, a refused one the target's.
    """
    return 1.0 / (acceptance * cost + 1.0 - acceptance)


def overlap_grid() -> list[dict[str, float]]:
    """Overlapped against the best synchronous draft length, at each point."""
    rows = []
    for acceptance, cost in tqdm([*itertools.product(ACCEPTANCES, COSTS)], desc="overlap", unit="point"):

        def at(k: int, a: float = acceptance, c: float = cost) -> float:
            return speed(a, c, config(k=k, overlap=False))

        k, synchronous = best_fixed(at, LENGTHS)
        trunk = speed(acceptance, cost, config(overlap=True, branches=False))
        overlapped = speed(acceptance, cost, config(overlap=True))
        rows.append(
            {
                "acceptance": acceptance,
                "cost": cost,
                "best_synchronous_k": k,
                "synchronous": synchronous,
                "overlapped_without_branches": trunk,
                "overlapped": overlapped,
                "ratio_without_branches": trunk / synchronous,
                "ratio": overlapped / synchronous,
                "dsi_limit": dsi_limit(acceptance, cost),
            }
        )
    return rows


def worst_grid() -> list[dict[str, Any]]:
    """Speculation that can bring nothing, over none."""
    rows = []
    points = [*itertools.product((0.0, 0.1), (0.5, 0.9), (1, 8, 64), (True, False))]
    for acceptance, cost, streams, overlap in tqdm(points, desc="worst", unit="point"):
        verify = rising(TARGET_TIME, KNEE)
        count = NUM_TOKENS if streams == 1 else 200
        ours, plain = (
            speed(acceptance, cost, policy, streams=streams, num_tokens=count, verify=verify)
            for policy in (config(overlap=overlap), config(k=0))
        )
        rows.append(
            {"acceptance": acceptance, "cost": cost, "streams": streams, "overlap": overlap, "ratio": ours / plain}
        )
    return rows


def steady_grid() -> list[dict[str, Any]]:
    """Adaptive draft lengths against the best fixed one, where nothing changes."""
    rows = []
    points = [(0.8, 0.2, 1), (0.6, 0.1, 1), (0.9, 0.1, 8), (0.7, 0.2, 32)]
    for (acceptance, cost, streams), overlap in tqdm([*itertools.product(points, (False, True))], desc="steady"):
        verify = rising(TARGET_TIME, KNEE)
        count = NUM_TOKENS if streams == 1 else 200

        def at(k: int | None, a: float = acceptance, c: float = cost, n: int = streams, o: bool = overlap) -> float:
            return speed(a, c, config(k=k, overlap=o), streams=n, num_tokens=count, verify=verify)  # noqa: B023

        k, fixed = best_fixed(at, LENGTHS)
        rows.append(
            {
                "acceptance": acceptance,
                "cost": cost,
                "streams": streams,
                "overlap": overlap,
                "best_fixed_k": k,
                "ratio": at(None) / fixed,
            }
        )
    return rows


def drift(policy: RouterConfig) -> float:
    """Tokens a second while load and acceptance go up and down."""
    cluster = Cluster(policy, MESSAGE_TIME)
    cluster.start("target-0", rising(TARGET_TIME, KNEE))
    cluster.start("draft-0", flat(0.1 * TARGET_TIME), 0.9, SECOND)
    num_submitted = 0
    for phase, (streams, acceptance, count) in enumerate(
        [(1, 0.9, 600), (64, 0.6, 60), (2, 0.3, 300), (32, 0.9, 100), (1, 0.5, 300), (1, 0.95, 800), (48, 0.8, 80)]
    ):
        cluster.engine("draft-0").acceptance = acceptance
        cluster.submit("target-0", "draft-0", streams, count, seed=phase)
        num_submitted += streams
        cluster.run(lambda n=num_submitted: cluster.num_finished == n)  # type: ignore[misc]
    return cluster.rate()


def run(repeats: int) -> Report:
    """Run the simulations. They are the same every time, so ``repeats`` counts only for the router's measured time."""
    report = Report(
        name="simulated",
        what="coordination in virtual time; every figure is simulated but the router's own time",
        settings={
            "target_step_s": TARGET_TIME,
            "message_s": MESSAGE_TIME,
            "second_choice_right": SECOND,
            "rows_at_one_price": KNEE,
        },
    )
    grid, worst, steady = overlap_grid(), worst_grid(), steady_grid()
    fixed = {k: drift(config(k=k, overlap=False)) for k in tqdm(range(9), desc="drift")}
    drifting = drift(config(overlap=False)) / max(fixed.values())
    routed = capacity(repeats)
    report.settings |= {"overlap": grid, "worst": worst, "steady": steady, "drift_fixed": fixed, "router": routed}
    at = next(row for row in grid if (row["acceptance"], row["cost"]) == (0.8, 0.2))
    report.bars = [
        Bar("overlapped / best synchronous, worst", min(row["ratio"] for row in grid), 1.0),
        Bar("the same at a=.8, c=.2", at["ratio"], 1.25),
        Bar("the same without branches", at["ratio_without_branches"], None),
        Bar("worst point over no speculation", min(row["ratio"] for row in worst), 0.97, 1.0),
        Bar("adaptive / best fixed k, steady", min(row["ratio"] for row in steady), 0.95, 0.98),
        Bar("adaptive / best fixed k, drifting", drifting, 1.05, 1.2),
        Bar("streams at 10 % router time", routed["streams_at_a_tenth"], 1000, 10_000),
    ]
    report.pictures.append(plot(grid).name)
    return report


def plot(grid: Sequence[dict[str, float]]) -> Path:
    """Draw the overlap grid beside the results."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(ACCEPTANCES), figsize=(3 * len(ACCEPTANCES), 3.4), sharey=True)
    for axis, acceptance in zip(axes, ACCEPTANCES, strict=True):
        rows = [row for row in grid if row["acceptance"] == acceptance]
        costs = [row["cost"] for row in rows]
        for key, label, style in (
            ("synchronous", "best synchronous k", "o-"),
            ("overlapped_without_branches", "overlapped", "s-"),
            ("overlapped", f"with branches (second right {SECOND:.0%})", "^-"),
            ("dsi_limit", "limit of DSI, any number of targets", "k:"),
        ):
            axis.plot(costs, [row[key] for row in rows], style, label=label, markersize=4)
        axis.set_title(f"acceptance {acceptance:g}", fontsize=10)
        axis.set_xlabel("draft step / target step")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("tokens per plain target step")
    axes[0].legend(fontsize=7)
    figure.suptitle("Simulated: one stream, target step 20 ms, messages 0.5 ms", fontsize=11)
    figure.tight_layout()
    path = RESULTS / "simulated.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
