"""What one replica of a pool tells the autoscaler: its worker's load, between two looks at the cluster."""

from collections.abc import Callable, Iterable, Mapping

from actors.config import Role
from actors.status import ClusterStats, WorkerStatus
from serve_app.scaling import BATCH_USE, DRAFT_BUSY, DRAFT_WAIT, KV_USE, QUEUED_TOKENS


def signals(
    role: Role, worker_id: str, max_num_seqs: int, before: ClusterStats | None, after: ClusterStats
) -> dict[str, float]:
    """The signals of :mod:`serve_app.scaling` for one worker; empty where the router does not know it (yet).

    Args:
        role: which signals are wanted.
        worker_id: the replica's own worker.
        max_num_seqs: sequences that it may run at once.
        before: the cluster when it was last asked; None the first time.
        after: the cluster now.
    """
    own = next((w for w in after.workers if w.info.worker_id == worker_id and w.is_alive), None)
    if own is None:
        return {}
    if role == "target":
        return _target_signals(own, max_num_seqs)
    if before is None or after.uptime <= before.uptime:  # the router was restarted in between
        return {}
    return _draft_signals(own, before, after)


def _target_signals(own: WorkerStatus, max_num_seqs: int) -> dict[str, float]:
    stats = own.stats
    return {
        QUEUED_TOKENS: float(stats.num_queued_tokens),
        KV_USE: stats.kv_use,
        BATCH_USE: (stats.num_running + stats.num_waiting) / max_num_seqs,
    }


def _draft_signals(own: WorkerStatus, before: ClusterStats, after: ClusterStats) -> dict[str, float]:
    earlier = {w.info.worker_id: w for w in before.workers}
    targets = [w for w in after.workers if w.info.role == "target" and w.info.pool == own.info.pool]
    waited = _grown(earlier, targets, lambda worker: worker.draft_wait_time)
    worked = _grown(earlier, targets, lambda worker: worker.stats.step_time)
    computed = _grown(earlier, [own], lambda worker: worker.stats.step_time)
    return {
        DRAFT_WAIT: waited / (waited + worked) if waited + worked else 0.0,
        DRAFT_BUSY: min(1.0, computed / (after.uptime - before.uptime)),
    }


def _grown(
    earlier: Mapping[str, WorkerStatus], workers: Iterable[WorkerStatus], seconds: Callable[[WorkerStatus], float]
) -> float:
    """Seconds by which a counter has grown, over some workers; one that is new or was restarted began at 0."""
    total = 0.0
    for worker in workers:
        known = earlier.get(worker.info.worker_id)
        is_same = known is not None and (known.info.pid, known.info.node) == (worker.info.pid, worker.info.node)
        total += seconds(worker) - (seconds(known) if known is not None and is_same else 0.0)
    return max(0.0, total)
