"""Starting actors on a Ray that runs: the router, and model actors with their share of CPUs and GPUs."""

import asyncio
import contextlib
import uuid
from dataclasses import dataclass
from typing import Any

import msgspec
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.config import NAMESPACE, ROUTER_NAME, Role, RouterConfig, WorkerConfig
from actors.engine.errors import SlipstreamError
from actors.engine_factory import EngineFactory, load_engine
from actors.ray_actors import CONTROL, DraftActor, RouterActor, TargetActor
from actors.status import WorkerInfo

CLASSES: dict[Role, type[TargetActor] | type[DraftActor]] = {"target": TargetActor, "draft": DraftActor}
STOP_TIMEOUT = 6.0


@dataclass(frozen=True)
class WorkerHandle:
    """A model actor as whoever started it sees it.

    Attributes:
        worker_id: name of the actor in :data:`actors.config.NAMESPACE`.
        actor: its Ray handle.
        group: the placement group that holds its GPUs, where it has several.
    """

    worker_id: str
    actor: Any
    group: Any = None

    async def ready(self) -> WorkerInfo:
        """Wait until the model is loaded. Raises what loading raised: the ConfigError tree, or SlipstreamError."""
        try:
            frame, error = await self.actor.ready.remote()
        except ray.exceptions.RayError as problem:
            raise SlipstreamError(f"{self.worker_id} died while it started: {_reason(problem)}") from None
        if error is not None:
            raise error
        return msgspec.msgpack.decode(frame, type=WorkerInfo)

    async def check_health(self) -> None:
        """Raise SlipstreamError where the actor is dead or its engine hangs."""
        try:
            await self.actor.check_health.remote()
        except ray.exceptions.RayError as problem:
            raise SlipstreamError(f"{self.worker_id} is not well: {_reason(problem)}") from None

    async def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """End the actor in good order within ``timeout`` seconds, or by force, and give back what it held."""
        with contextlib.suppress(ray.exceptions.RayError, asyncio.TimeoutError):
            await asyncio.wait_for(_result(self.actor.stop.remote()), timeout)
        self.kill()

    def kill(self) -> None:
        """End the actor at once and for good."""
        ray.kill(self.actor, no_restart=True)
        if self.group is not None:
            remove_placement_group(self.group)


def start_worker(
    role: Role,
    pool: str,
    worker: WorkerConfig,
    router: RouterConfig,
    *,
    worker_id: str | None = None,
    engine_factory: EngineFactory = load_engine,
    detached: bool = False,
) -> WorkerHandle:
    """Start a model actor and return at once; it loads, then registers with the router by itself.

    Ray starts it anew when its process dies. ``detached`` actors outlive their driver. An actor with several GPUs gets
    them on one host, reserved as a placement group.
    """
    name = worker_id or f"slipstream-{role}-{pool}-{uuid.uuid4().hex[:8]}"
    options: dict[str, Any] = {"num_cpus": worker.num_cpus, "num_gpus": worker.num_gpus}
    group = None
    if worker.num_gpus > 1:
        bundle = {"GPU": worker.num_gpus, "CPU": worker.num_cpus}
        group = placement_group(
            [{name: amount for name, amount in bundle.items() if amount}],
            strategy="STRICT_PACK",
            name=name,
            lifetime="detached" if detached else None,
        )
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=0
        )
    # Ray knows this option; its type stubs do not.
    actor_class = ray.remote(concurrency_groups={CONTROL: 4})(CLASSES[role])  # type: ignore[call-overload]
    actor = actor_class.options(
        name=name,
        namespace=NAMESPACE,
        max_restarts=-1,
        max_task_retries=0,
        enable_task_events=False,
        lifetime="detached" if detached else None,
        **options,
    ).remote(name, pool, msgspec.msgpack.encode(worker), msgspec.msgpack.encode(router), engine_factory)
    return WorkerHandle(name, actor, group)


def start_router(config: RouterConfig, *, description: bytes = b"", detached: bool = False) -> Any:
    """Start the router, or return the handle of the one that runs. Ray starts it anew when its process dies.

    Unless it is ``detached`` it ends when the handle, or the driver, goes. It keeps ``description``, what the cluster
    was started from, for those who connect later.
    """
    actor_class = ray.remote(RouterActor)
    return actor_class.options(
        name=ROUTER_NAME,
        namespace=NAMESPACE,
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=10_000,
        enable_task_events=False,
        lifetime="detached" if detached else None,
    ).remote(msgspec.msgpack.encode(config), description)


def get_router() -> Any:
    """Return the handle of the router that runs. Raises SlipstreamError where none does."""
    try:
        return ray.get_actor(ROUTER_NAME, namespace=NAMESPACE)
    except ValueError:
        raise SlipstreamError(
            f"no Slipstream cluster runs on this Ray (no actor {ROUTER_NAME!r} in namespace {NAMESPACE!r})"
        ) from None


async def _result(ref: Any) -> Any:
    return await ref


def _reason(problem: Exception) -> str:
    """Return the last line of what Ray says, which names the cause."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[-1] if lines else type(problem).__name__
