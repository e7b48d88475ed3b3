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
from actors.ray_actors import CONTROL, MAX_NUM_NATIVE_RUNS, NATIVE, DraftActor, RouterActor, TargetActor
from actors.status import WorkerInfo

CLASSES: dict[Role, type[TargetActor] | type[DraftActor]] = {"target": TargetActor, "draft": DraftActor}
STOP_TIMEOUT = 6.0
NUM_CONTROL_THREADS = 8  # one for the router that watches, one for each that watched and died a moment ago, and room
HEAD_RESOURCE = "node:__internal_head__"  # Ray gives its head one of these


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

    async def check_health(self) -> bool:
        """Return whether the actor is up; False while Ray starts it anew.

        Raises SlipstreamError where it is dead for good or its engine hangs.
        """
        try:
            await self.actor.check_health.remote()
            return True
        except ray.exceptions.ActorUnavailableError:
            return False
        except ray.exceptions.RayError as problem:
            raise SlipstreamError(f"{self.worker_id} is not well: {_reason(problem)}") from None

    async def drain(self, timeout: float) -> None:
        """End the actor once what it runs has finished, or in good order after ``timeout`` seconds."""
        with contextlib.suppress(ray.exceptions.RayError, asyncio.TimeoutError):
            await asyncio.wait_for(_result(self.actor.drain.remote(timeout)), timeout + STOP_TIMEOUT)
        self.kill()

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
    draft_pool: str = "",
    engine_factory: EngineFactory = load_engine,
    detached: bool = False,
    group: Any = None,
) -> WorkerHandle:
    """Start a model actor and return at once; it loads, then registers with the router by itself.

    Ray starts it anew when its process dies. ``draft_pool`` names a draft's pool, where that is not the default one of
    ``pool``, its targets. ``detached`` actors outlive their driver. The actor lives in the first bundle of ``group``, a
    placement group of the caller's. Without one, an actor with several GPUs gets them on one host, reserved as a
    placement group of its own.
    """
    name = worker_id or worker_name(role, pool, draft_pool, uuid.uuid4().hex[:8])
    options: dict[str, Any] = {
        "num_cpus": worker.num_cpus,
        "num_gpus": worker.num_gpus,
        "resources": dict(worker.resources),
    }
    own_group = None
    if group is None and worker.num_gpus > 1:
        lifetime = "detached" if detached else None
        group = own_group = placement_group([bundle(worker)], strategy="STRICT_PACK", name=name, lifetime=lifetime)
    if group is not None:
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=0
        )
    # Ray knows this option; its type stubs do not.
    groups = {CONTROL: NUM_CONTROL_THREADS, NATIVE: MAX_NUM_NATIVE_RUNS}
    actor_class = ray.remote(concurrency_groups=groups)(CLASSES[role])  # type: ignore[call-overload]
    actor = actor_class.options(
        name=name,
        namespace=NAMESPACE,
        max_restarts=-1,
        max_task_retries=0,
        enable_task_events=False,
        lifetime="detached" if detached else None,
        **options,
    ).remote(name, pool, msgspec.msgpack.encode(worker), msgspec.msgpack.encode(router), engine_factory, draft_pool)
    return WorkerHandle(name, actor, own_group)


def worker_name(role: Role, pool: str, draft_pool: str, suffix: str) -> str:
    """Return the name of a model actor, alone in its cluster by its ``suffix``."""
    return "-".join(filter(None, ("slipstream", role, pool, draft_pool, suffix)))


def bundle(worker: WorkerConfig) -> dict[str, float]:
    """Return what a worker takes of a host, as a bundle of a placement group."""
    amounts = {"CPU": worker.num_cpus, "GPU": worker.num_gpus, **worker.resources}
    return {name: amount for name, amount in amounts.items() if amount}


def start_router(
    config: RouterConfig,
    *,
    models: tuple[str, ...] = (),
    drafts: tuple[str, ...] = (),
    description: bytes = b"",
    detached: bool = False,
) -> Any:
    """Start the router, or return the handle of the one that runs. Ray starts it anew when its process dies.

    Unless it is ``detached`` it ends when the handle, or the driver, goes. Requests for ``models``, its target pools,
    wait until a target of theirs is up; ``drafts`` are its draft pools, by name. It keeps ``description``, what the
    cluster was started from, for those who connect later. It lives on the head, which no autoscaler takes away, and in
    nobody's placement group.
    """
    actor_class = ray.remote(RouterActor)
    return actor_class.options(
        name=ROUTER_NAME,
        namespace=NAMESPACE,
        get_if_exists=True,
        num_cpus=0,
        resources={HEAD_RESOURCE: 0.001},
        scheduling_strategy="DEFAULT",
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=10_000,
        enable_task_events=False,
        lifetime="detached" if detached else None,
    ).remote(msgspec.msgpack.encode(config), description, models, drafts)


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
