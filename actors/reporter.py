"""A worker's beat: the report that registers it with the router and keeps it counted as alive."""

import msgspec

from actors.engine.request import EngineStats
from actors.link import Link
from actors.messages import Leave, Report
from actors.status import DraftingStats, StepTime, WorkerInfo


class Reporter:
    """Sends a :class:`Report` when one is due, and again what it sent last while the engine is busy.

    :meth:`repeat` may be called from another thread: a forward that takes long is not the death of its worker.
    """

    def __init__(self, link: Link, router_id: str, info: WorkerInfo, interval: float) -> None:
        self._link = link
        self._router_id = router_id
        self._interval = interval
        self._last = Report(info=info, stats=EngineStats(), is_repeat=True)
        self.next_time = 0.0
        self.is_draining = False

    def send(
        self,
        now: float,
        stats: EngineStats,
        request_ids: tuple[str, ...] = (),
        draft_length: int = 0,
        draft_wait_time: float = 0.0,
        drafting: DraftingStats = DraftingStats(),  # noqa: B008  # frozen
        step_times: tuple[StepTime, ...] = (),
    ) -> None:
        """Report, and set the time of the next beat."""
        self.next_time = now + self._interval
        report = Report(
            info=self._last.info,
            stats=stats,
            request_ids=request_ids,
            draft_length=draft_length,
            is_draining=self.is_draining,
            draft_wait_time=draft_wait_time,
            drafting=drafting,
            step_times=step_times,
        )
        self._last = msgspec.structs.replace(report, is_repeat=True)
        self._link.send(self._router_id, report)

    def repeat(self) -> None:
        """Send the last report once more."""
        self._link.send(self._router_id, self._last)

    def drain(self) -> None:
        """Say with the next report, which is due now, that this worker takes nothing new."""
        self.is_draining, self.next_time = True, 0.0

    def leave(self) -> None:
        """Tell the router that this worker ends."""
        self._link.send(self._router_id, Leave(worker_id=self._last.info.worker_id))
