"""Pools of model actors as Serve deployments: a replica owns one actor, and Serve supervises the replicas.

Requests do not pass through these replicas. They start an actor, vouch for its health, tell how loaded it is, and end
it.
"""

from typing import Any

import msgspec
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from actors.config import Role, RouterConfig, WorkerConfig
from actors.router_client import RouterClient
from actors.start import WorkerHandle, start_router, start_worker
from cluster.config import ClusterConfig, PoolConfig
from serve_app.scaling import LOAD, scale_by_load

DRAIN_SECONDS = 20.0
HEALTH_CHECK_SECONDS = 10.0  # Serve acts on the third failure in a row, by when Ray has restarted the actor
MAX_NUM_STARTS = 3


class ModelReplica:
    """Owns one model actor, which registers with the router by itself.

    Args:
        worker: a WorkerConfig, router: a RouterConfig, cluster: the whole ClusterConfig, which the router keeps for
            those who connect to it; all as msgpack: plain bytes pass through Serve untouched.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, role: Role, pool: str, worker: bytes, router: bytes, cluster: bytes
    ) -> None:
        router_config = msgspec.msgpack.decode(router, type=RouterConfig)
        worker_config = msgspec.msgpack.decode(worker, type=WorkerConfig)
        start_router(router_config, description=cluster, detached=True)
        self._client: RouterClient | None = None
        self._worker: WorkerHandle | None = start_worker(role, pool, worker_config, router_config)
        try:
            await self._worker.ready()
        except BaseException:
            self._worker.kill()
            self._worker = None
            raise

    async def check_health(self) -> None:
        """Serve's hook. Raises SlipstreamError where the actor is dead or hangs."""
        if self._worker is not None:
            await self._worker.check_health()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve's hook: how many sequences this replica's actor has."""
        if self._client is None:
            self._client = await RouterClient.connect()
        stats = await self._client.stats()
        own = [worker for worker in stats.workers if self._worker and worker.info.worker_id == self._worker.worker_id]
        return {LOAD: float(sum(worker.num_requests for worker in own))}

    async def __del__(self) -> None:
        """Serve's hook: end the actor; the router places its requests elsewhere."""
        worker, self._worker = getattr(self, "_worker", None), None
        if worker is not None:
            await worker.stop()


def pool_deployment(role: Role, config: ClusterConfig, pool: PoolConfig) -> serve.Application:
    """One pool, bound and ready to be deployed."""
    options: dict[str, Any] = {"num_replicas": pool.replicas}
    if pool.max_replicas is not None:
        options = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=pool.replicas,
                max_replicas=pool.max_replicas,
                target_ongoing_requests=max(1.0, 0.75 * pool.worker.engine.max_num_seqs),
                policy=AutoscalingPolicy(policy_function=scale_by_load),
            )
        }
    deployment = serve.deployment(
        name=f"{role.capitalize()}Pool",
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        health_check_period_s=HEALTH_CHECK_SECONDS,
        max_constructor_retry_count=MAX_NUM_STARTS,
        **options,
    )(ModelReplica)
    return deployment.bind(
        role,
        config.name,
        msgspec.msgpack.encode(pool.worker),
        msgspec.msgpack.encode(config.router),
        msgspec.msgpack.encode(config),
    )
