"""What speculation brings, setting by setting, beside what the cost model says it should.

Settings take turns; of each turn is kept what requests, target and drafts counted in it, so that acceptance, the cost
of a draft's step and that of a check belong to the very tokens whose speed was measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from actors.config import Role, RouterConfig
from actors.engine.request import Request
from actors.status import ClusterStats, StepTime
from actors.step_times import step_times_between, sum_step_times
from cluster.bench.cost_model import acceptance_of, drafting_seconds, predicted_speedup, seconds_of
from cluster.bench.measure import Sample, sample, take_turns
from cluster.bench.runs import Run, Runner

PLAIN = "plain"
ADAPTIVE = "adaptive"

MakeRequests = Callable[[int | None], Sequence[Request]]
"""From a draft length (None: adapted, 0: no drafts) to fresh requests."""


def settings(router: RouterConfig, stats: ClusterStats, draft_lengths: Sequence[int]) -> dict[str, int | None]:
    """Name to draft length: plain decoding, what the cluster does by itself, and fixed ones; the first without drafts.

    By itself a cluster adapts the length, unless ``router`` pins it.
    """
    if not any(worker.is_alive and worker.info.role == "draft" for worker in stats.workers):
        return {PLAIN: 0}
    pinned = router.num_assistant_tokens
    own = ADAPTIVE if pinned is None else f"pinned, k = {pinned}"
    return {PLAIN: 0, own: None, **{f"k = {k}": k for k in draft_lengths}}


@dataclass(frozen=True)
class Turn:
    """One turn of one setting.

    Attributes:
        runs: its requests, ``concurrency`` of them at a time.
        seconds: from the first request's start to the last token.
        target_steps, draft_steps: forwards of all targets and of all drafts meanwhile.
        target_bubbles, draft_bubbles: seconds in which they stood still for one another.
        num_rounds, num_ahead_hits, num_branch_hits: see :class:`actors.status.DraftingStats`.
    """

    runs: tuple[Run, ...]
    concurrency: int
    seconds: float
    target_steps: tuple[StepTime, ...]
    draft_steps: tuple[StepTime, ...]
    target_bubbles: float
    draft_bubbles: float
    num_rounds: int
    num_ahead_hits: int
    num_branch_hits: int

    @property
    def speed(self) -> float:
        """Tokens a second of one stream, prompts left out."""
        seconds = sum(run.decode_seconds for run in self.runs)
        return sum(run.num_decoded for run in self.runs) / seconds if seconds else 0.0

    @property
    def throughput(self) -> float:
        """Tokens a second of all streams, prompts included."""
        return sum(len(run.token_ids) for run in self.runs) / self.seconds if self.seconds else 0.0

    @property
    def acceptance(self) -> float | None:
        """The chance that a drafted token is right where those before it are."""
        return acceptance_of(
            sum(run.stats.num_accepted_tokens for run in self.runs),
            sum(run.stats.num_drafts for run in self.runs),
            sum(run.num_full for run in self.runs),
        )


def take_turn(runner: Runner, requests: Sequence[Request], concurrency: int) -> Turn:
    """Run requests and keep what was counted meanwhile."""
    before = runner.settled_stats()
    started = runner.clock()
    runs = runner.run(requests, concurrency)
    seconds = runner.clock() - started
    after = runner.settled_stats()
    return Turn(
        tuple(runs),
        concurrency,
        seconds,
        _steps(before, after, "target"),
        _steps(before, after, "draft"),
        after.draft_wait_time - before.draft_wait_time,
        after.drafting.idle_time - before.drafting.idle_time,
        after.drafting.num_rounds - before.drafting.num_rounds,
        after.drafting.num_ahead_hits - before.drafting.num_ahead_hits,
        after.drafting.num_branch_hits - before.drafting.num_branch_hits,
    )


def _steps(before: ClusterStats, after: ClusterStats, role: Role) -> tuple[StepTime, ...]:
    earlier = {worker.info.worker_id: worker.step_times for worker in before.workers}
    return sum_step_times(
        step_times_between(earlier.get(worker.info.worker_id, ()), worker.step_times)
        for worker in after.workers
        if worker.info.role == role
    )


def measure(
    runner: Runner,
    make_requests: MakeRequests,
    of_settings: Mapping[str, int | None],
    *,
    repeats: int,
    concurrency: int = 1,
    warm_ups: int = 1,
) -> dict[str, list[Turn]]:
    """Let settings take turns over the same requests; the turns of each, in order."""

    def contender(k: int | None) -> Callable[[], Turn]:
        return lambda: take_turn(runner, make_requests(k), concurrency)

    contenders = {name: contender(k) for name, k in of_settings.items()}
    return take_turns(contenders, repeats=repeats, warm_ups=warm_ups)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one setting came to.

    Attributes:
        num_draft_tokens: its fixed draft length; None where it is adapted.
        speed: tokens a second of one stream, prompts left out.
        throughput: tokens a second of all streams, prompts included.
        first_token: seconds to a request's first token.
        mean_draft_length: drafted tokens a check; 0 where none was.
        acceptance: a, None where nothing was drafted.
        acceptance_by_position: share of checks that took the token at each position of the draft.
        verify: V(k + 1), a check over a plain forward.
        draft: c, a forward of the draft over a plain one of the target.
        speedup: over plain decoding, turn by turn.
        predicted: what the cost model says, turn by turn; None for an adapted length, for several streams at a time,
            and where a cost was not met.
        measured_over_predicted: likewise.
        target_bubbles, draft_bubbles: share of the time in which targets and drafts stood still for one another.
        ahead_hits: share of checks whose drafts were at hand when the step before had ended.
    """

    name: str
    num_draft_tokens: int | None
    speed: Sample
    throughput: Sample
    first_token: Sample
    mean_draft_length: float
    acceptance: float | None
    acceptance_by_position: tuple[float, ...]
    verify: float | None
    draft: float | None
    speedup: Sample
    predicted: Sample | None
    measured_over_predicted: Sample | None
    target_bubbles: float
    draft_bubbles: float
    ahead_hits: float

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def figures(turns: Mapping[str, Sequence[Turn]], of_settings: Mapping[str, int | None]) -> list[Figures]:
    """Work out the figures of each setting; turns of the same place are compared with one another.

    ``turns`` must have :data:`PLAIN`.
    """
    return [_figures(name, k, turns[name], turns[PLAIN]) for name, k in of_settings.items()]


def _figures(name: str, k: int | None, turns: Sequence[Turn], plain: Sequence[Turn]) -> Figures:
    runs = [run for turn in turns for run in turn.runs]
    num_drafts = sum(run.stats.num_drafts for run in runs)
    speedups = [turn.speed / base.speed if base.speed else 0.0 for turn, base in zip(turns, plain, strict=True)]
    predictions = [_predict(k, turn, base) for turn, base in zip(turns, plain, strict=True)] if k else []
    known = [(value, speedup) for value, speedup in zip(predictions, speedups, strict=False) if value is not None]
    seconds = sum(turn.seconds for turn in turns)
    unit = seconds_of(sum_step_times(turn.target_steps for turn in plain), 1)
    check = None if k is None else seconds_of(sum_step_times(turn.target_steps for turn in turns), k + 1)
    draft = drafting_seconds(sum_step_times(turn.draft_steps for turn in turns)) if num_drafts else None
    return Figures(
        name=name,
        num_draft_tokens=k,
        speed=sample("tok/s", [turn.speed for turn in turns]),
        throughput=sample("tok/s", [turn.throughput for turn in turns]),
        first_token=sample("s", [run.first_time for run in runs]),
        mean_draft_length=sum(run.stats.num_draft_tokens for run in runs) / max(1, num_drafts),
        acceptance=acceptance_of(
            sum(run.stats.num_accepted_tokens for run in runs), num_drafts, sum(run.num_full for run in runs)
        ),
        acceptance_by_position=_by_position(runs, num_drafts),
        verify=check / unit if check and unit else None,
        draft=draft / unit if draft and unit else None,
        speedup=sample("x", speedups),
        predicted=sample("x", [value for value, _ in known]) if known else None,
        measured_over_predicted=sample("x", [speedup / value for value, speedup in known]) if known else None,
        target_bubbles=sum(turn.target_bubbles for turn in turns) / seconds if seconds else 0.0,
        draft_bubbles=sum(turn.draft_bubbles for turn in turns) / seconds if seconds else 0.0,
        ahead_hits=sum(run.stats.num_ahead_hits for run in runs) / max(1, num_drafts),
    )


def _predict(k: int, turn: Turn, plain: Turn) -> float | None:
    """The cost model's speed-up with the acceptance and the costs of these two turns."""
    unit, check = seconds_of(plain.target_steps, 1), seconds_of(turn.target_steps, k + 1)
    draft, acceptance = drafting_seconds(turn.draft_steps), turn.acceptance
    if turn.concurrency > 1 or not unit or check is None or draft is None or acceptance is None:
        return None
    return predicted_speedup(acceptance, k, check / unit, draft / unit)


def _by_position(runs: Sequence[Run], num_drafts: int) -> tuple[float, ...]:
    counts: list[int] = []
    for run in runs:
        own = run.stats.num_accepted_tokens_per_pos
        counts += [0] * (len(own) - len(counts))
        for position, count in enumerate(own):
            counts[position] += count
    return tuple(count / num_drafts for count in counts)
