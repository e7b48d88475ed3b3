"""The workers that the router knows: who is alive, what each reported last, and how many steps they have made."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from actors.config import Role
from actors.engine.request import EngineStats
from actors.messages import Report
from actors.status import ClusterStats, DraftingStats, StepTime, WorkerInfo, WorkerStatus

FORGET_AFTER = 120.0  # seconds for which a dead worker is still shown, and its model still counts as known


@dataclass
class _Worker:
    info: WorkerInfo
    stats: EngineStats
    last_report: float
    request_ids: frozenset[str] = frozenset()
    is_alive: bool = True
    is_draining: bool = False
    draft_length: int = 0
    draft_wait_time: float = 0.0
    drafting: DraftingStats = field(default_factory=DraftingStats)
    step_times: tuple[StepTime, ...] = ()


class Registry:
    """Workers by id. A worker is alive from its first report on, until it is said to be gone or falls silent.

    ``models`` names the target pools that belong to the cluster whether or not one of their targets has come up.
    """

    def __init__(self, timeout: float, clock: Callable[[], float], models: Iterable[str] = ()) -> None:
        self._timeout = timeout
        self._clock = clock
        self._models = frozenset(models)
        self._workers: dict[str, _Worker] = {}
        self._past_steps = 0  # of targets that are no longer known
        self._past_drafting = DraftingStats()  # ... and of all such workers
        self._past_draft_wait_time = 0.0

    def enter(self, report: Report) -> bool:
        """Take in a report. Returns whether the worker is new, back again, or another process under the same name."""
        worker_id = report.info.worker_id
        known = self._workers.get(worker_id)
        is_same = known is not None and known.info.pid == report.info.pid and known.info.node == report.info.node
        if known is not None and is_same and known.is_alive:
            known.last_report = self._clock()
            known.is_draining |= report.is_draining
            if not report.is_repeat:
                known.stats, known.draft_length = report.stats, report.draft_length
                known.request_ids = frozenset(report.request_ids)
                known.draft_wait_time, known.drafting = report.draft_wait_time, report.drafting
                known.step_times = report.step_times
            return False
        if known is not None and not is_same:
            self._retire(known)
        self._workers[worker_id] = _Worker(
            report.info,
            report.stats,
            last_report=self._clock(),
            request_ids=frozenset(report.request_ids),
            is_draining=report.is_draining,
            draft_length=report.draft_length,
            draft_wait_time=report.draft_wait_time,
            drafting=report.drafting,
            step_times=report.step_times,
        )
        return True

    def is_restarted(self, report: Report) -> bool:
        """Whether a report comes from another process than the one that is held to be alive under its name."""
        known = self._workers.get(report.info.worker_id)
        return (
            known is not None
            and known.is_alive
            and (known.info.pid, known.info.node)
            != (
                report.info.pid,
                report.info.node,
            )
        )

    def mark_gone(self, worker_id: str, pid: int | None = None) -> WorkerInfo | None:
        """Mark a worker as gone. Returns who it was; None if it was not alive, or is not the process ``pid``."""
        worker = self._workers.get(worker_id)
        if worker is None or not worker.is_alive or (pid is not None and worker.info.pid != pid):
            return None
        worker.is_alive = False
        return worker.info

    def silent(self) -> list[str]:
        """Return the workers that have not reported for too long, and forget those that are long dead."""
        now = self._clock()
        for worker_id, worker in list(self._workers.items()):
            if not worker.is_alive and now - worker.last_report > FORGET_AFTER:
                self._retire(self._workers.pop(worker_id))
        return [i for i, w in self._workers.items() if w.is_alive and now - w.last_report > self._timeout]

    def is_alive(self, worker_id: str) -> bool:
        """Whether this worker is known and alive."""
        worker = self._workers.get(worker_id)
        return worker is not None and worker.is_alive

    def alive(self, role: Role, pool: str) -> list[str]:
        """Return the ids of a pool's live workers that take work: not of those that drain."""
        alive = [(i, w.info) for i, w in self._workers.items() if w.is_alive and not w.is_draining]
        return [worker_id for worker_id, info in alive if info.role == role and info.pool == pool]

    def holds(self, worker_id: str, request_id: str) -> bool:
        """Whether a target that is alive said in its last report that it has a request."""
        return self.is_alive(worker_id) and request_id in self._workers[worker_id].request_ids

    def num_waiting(self, worker_id: str) -> int:
        """Return the requests that queued inside a worker when it last reported."""
        worker = self._workers.get(worker_id)
        return worker.stats.num_waiting if worker is not None else 0

    def knows_model(self, model: str) -> bool:
        """Whether a target of this pool belongs to the cluster, lives, or lived not long ago."""
        return model in self._models or any(
            w.info.role == "target" and w.info.pool == model for w in self._workers.values()
        )

    def models(self) -> list[str]:
        """Return the names of the target pools."""
        return sorted({w.info.pool for w in self._workers.values() if w.info.role == "target"} | self._models)

    def stats(self, num_placed: Callable[[str], int]) -> ClusterStats:
        """Return all workers and the steps of the targets; ``num_placed`` gives the requests on one worker."""
        now = self._clock()
        statuses = tuple(
            WorkerStatus(
                info=worker.info,
                is_alive=worker.is_alive,
                is_draining=worker.is_draining,
                num_requests=num_placed(worker_id),
                last_report=now - worker.last_report,
                draft_wait_time=worker.draft_wait_time,
                drafting=worker.drafting,
                stats=worker.stats,
                step_times=worker.step_times,
            )
            for worker_id, worker in sorted(self._workers.items())
        )
        targets = [worker for worker in self._workers.values() if worker.info.role == "target"]
        return ClusterStats(
            workers=statuses,
            num_steps=self._past_steps + sum(worker.stats.num_steps for worker in targets),
            draft_length=max((worker.draft_length for worker in targets if worker.is_alive), default=0),
            drafting=_sum_of([self._past_drafting, *(worker.drafting for worker in self._workers.values())]),
            draft_wait_time=self._past_draft_wait_time + sum(w.draft_wait_time for w in self._workers.values()),
        )

    def _retire(self, worker: _Worker) -> None:
        self._past_drafting = _sum_of([self._past_drafting, worker.drafting])
        self._past_draft_wait_time += worker.draft_wait_time
        if worker.info.role == "target":
            self._past_steps += worker.stats.num_steps


def _sum_of(drafting: Iterable[DraftingStats]) -> DraftingStats:
    """Return the sums of all counts."""
    counts = [msgspec.structs.asdict(one) for one in drafting]
    return DraftingStats(**{name: sum(count[name] for count in counts) for name in DraftingStats.__struct_fields__})
