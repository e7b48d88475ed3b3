"""Pools of model actors as Serve deployments: a replica owns one actor, and Serve supervises the replicas.

Requests do not pass through these replicas. They start an actor, vouch for its health, tell how loaded it is, and let
it finish before it ends. A replica and its actor share a placement group, so that they come and go with their host, and
Ray's autoscaler sees what a replica that waits for one needs.
"""

import time
from typing import Any

import msgspec
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.util import get_current_placement_group

from actors.config import Role, RouterConfig, WorkerConfig
from actors.engine.errors import SlipstreamError
from actors.start import STOP_TIMEOUT, WorkerHandle, bundle, start_router, start_worker
from actors.status import ClusterStats
from cluster.config import ClusterConfig, Pool, PoolConfig
from serve_app.scaling import DraftPolicy, TargetPolicy
from serve_app.signals import signals

HEALTH_CHECK_SECONDS = 10.0  # Serve acts on the third failure in a row
MAX_RELOAD_SECONDS = 900.0  # Ray restarts an actor that dies; a new replica would only load the same model later
MAX_NUM_STARTS = 3
REPORTS_A_WINDOW = 3


class ModelReplica:
    """Owns one model actor, which registers with the router by itself once its model has run.

    Args:
        worker: a WorkerConfig, router: a RouterConfig, cluster: the whole ClusterConfig, which the router keeps for
            those who connect to it; all as msgpack: plain bytes pass through Serve untouched.
        drain_timeout: seconds in which what the actor runs may finish when the replica ends.
        draft_pool: name of a draft's pool, where that is not the default one.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        role: Role,
        pool: str,
        worker: bytes,
        router: bytes,
        cluster: bytes,
        drain_timeout: float,
        draft_pool: str = "",
    ) -> None:
        router_config = msgspec.msgpack.decode(router, type=RouterConfig)
        worker_config = msgspec.msgpack.decode(worker, type=WorkerConfig)
        self._role: Role = role
        self._max_num_seqs = worker_config.engine.max_num_seqs
        self._drain_timeout = drain_timeout
        self._stats: ClusterStats | None = None
        self._away_since: float | None = None
        drafts = tuple(msgspec.msgpack.decode(cluster, type=ClusterConfig).draft_models)
        self._router = start_router(router_config, models=(pool,), drafts=drafts, description=cluster, detached=True)
        self._worker: WorkerHandle | None = start_worker(
            role, pool, worker_config, router_config, draft_pool=draft_pool, group=get_current_placement_group()
        )
        try:
            await self._worker.ready()
        except BaseException:
            self._worker.kill()
            self._worker = None
            raise

    async def check_health(self) -> None:
        """Serve's hook. Raises SlipstreamError where the actor is dead or hangs, or takes too long to load again."""
        if self._worker is None or await self._worker.check_health():
            self._away_since = None
            return
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since > MAX_RELOAD_SECONDS:
            raise SlipstreamError(f"{self._worker.worker_id} has not come back within {MAX_RELOAD_SECONDS:g} s")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve's hook: the signals that this pool's policy reads."""
        if self._worker is None:
            return {}
        before, self._stats = self._stats, msgspec.msgpack.decode(await self._router.stats.remote(), type=ClusterStats)
        return signals(self._role, self._worker.worker_id, self._max_num_seqs, before, self._stats)

    async def __del__(self) -> None:
        """Serve's hook: take nothing new, let what runs finish, and end; the router places the rest elsewhere."""
        worker, self._worker = getattr(self, "_worker", None), None
        if worker is not None:
            await worker.drain(self._drain_timeout)


def pool_deployment(entry: Pool, config: ClusterConfig) -> serve.Application:
    """One pool, bound and ready to be deployed."""
    role, draft_pool, pool = entry
    options: dict[str, Any] = {}
    if pool.max_replicas is None:
        options["num_replicas"] = pool.replicas
    else:
        options["autoscaling_config"] = autoscaling(role, pool, pool.max_replicas)
    if resources := bundle(pool.worker):
        options["placement_group_bundles"] = [resources]
    deployment = serve.deployment(
        name="-".join(filter(None, (f"{role.capitalize()}Pool", draft_pool))),
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=pool.scaling.drain_timeout + 2 * STOP_TIMEOUT,
        health_check_period_s=HEALTH_CHECK_SECONDS,
        max_constructor_retry_count=MAX_NUM_STARTS,
        **options,
    )(ModelReplica)
    return deployment.bind(
        role,
        config.name,
        msgspec.msgpack.encode(config.worker_config(pool)),
        msgspec.msgpack.encode(config.router),
        msgspec.msgpack.encode(config),
        pool.scaling.drain_timeout,
        draft_pool,
    )


def autoscaling(role: Role, pool: PoolConfig, max_replicas: int) -> AutoscalingConfig:
    """A pool's bounds, delays and policy as Serve takes them."""
    scaling = pool.scaling
    goals: dict[str, float]
    if role == "target":
        policy: type[TargetPolicy] | type[DraftPolicy] = TargetPolicy
        goals = {
            "queued_tokens": scaling.target_queued_tokens,
            "kv_use": scaling.target_kv_use,
            "batch_use": scaling.target_batch_use,
        }
    else:
        policy = DraftPolicy
        goals = {"draft_wait": scaling.target_draft_wait, "draft_busy": scaling.target_draft_busy}
    return AutoscalingConfig(
        min_replicas=pool.replicas,
        max_replicas=max_replicas,
        look_back_period_s=scaling.window,
        metrics_interval_s=scaling.window / REPORTS_A_WINDOW,
        upscale_delay_s=scaling.upscale_delay,
        downscale_delay_s=scaling.downscale_delay,
        policy=AutoscalingPolicy(policy_function=policy, policy_kwargs={**goals, "tolerance": scaling.tolerance}),
    )
