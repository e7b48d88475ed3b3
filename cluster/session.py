"""A cluster from its start to its end: Ray, the router, the pools of model actors."""

import asyncio
import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import msgspec

from actors.config import NAMESPACE
from actors.engine.errors import ConfigError, SlipstreamError
from actors.engine_factory import EngineFactory, load_engine
from actors.ray_environment import prepare_environment
from actors.status import ClusterStats
from cluster.background import BackgroundLoop
from cluster.config import ClusterConfig

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 128 * 1024 * 1024  # only small messages travel
POLL_INTERVAL = 0.05
REGISTER_TIMEOUT = 30.0

Say = Callable[[str], None]


class Cluster:
    """A running cluster. What :meth:`start` began :meth:`shutdown` ends; one that was only connected to stays up."""

    def __init__(self, config: ClusterConfig, router: Any, workers: tuple[Any, ...] = (), *, owns_ray: bool) -> None:
        self.config = config
        self._router = router
        self._workers = workers
        self._owns_ray = owns_ray
        self._is_started = bool(workers)

    @classmethod
    def start(cls, config: ClusterConfig, *, engine_factory: EngineFactory = load_engine) -> Self:
        """Start router and workers, on the Ray that runs or else on a local one, and wait until all are ready.

        A Ray that runs is the one this process is connected to, or the one that ``RAY_ADDRESS`` names.

        Raises:
            ConfigError: a model cannot be loaded as configured, or this host lacks the GPUs.
            SlipstreamError: a cluster runs there already, or a worker died while it started.
        """
        with _progress() as say:
            say("starting Ray")
            owns_ray = _start_ray(config)
            router: Any = None
            workers: list[Any] = []
            try:
                router = _begin_router(config)
                _begin_workers(config, engine_factory, workers)
                loop = BackgroundLoop("slipstream-start")
                try:
                    loop.call(_until_ready(router, workers, say))
                finally:
                    loop.close()
            except BaseException:
                _end(router, workers, owns_ray=owns_ray)
                raise
        return cls(config, router, tuple(workers), owns_ray=owns_ray)

    @classmethod
    def connect(cls) -> Self:
        """Connect to the cluster that runs on this machine, or where ``RAY_ADDRESS`` says.

        Raises SlipstreamError where there is none.
        """
        import ray

        from actors.start import get_router

        owns_ray = not ray.is_initialized()
        if owns_ray:
            try:
                _init_ray(address=os.environ.get("RAY_ADDRESS", "auto"))
            except (ConnectionError, RuntimeError) as error:
                raise SlipstreamError(f"no Ray cluster runs that could be connected to: {error}") from None
        try:
            router = get_router()
            description = ray.get(router.describe.remote())
            if not description:
                raise SlipstreamError("the router that runs does not know its cluster's configuration")
        except (ray.exceptions.RayError, SlipstreamError) as error:
            if owns_ray:
                ray.shutdown()
            raise SlipstreamError(str(error)) from None
        return cls(msgspec.msgpack.decode(description, type=ClusterConfig), router, owns_ray=owns_ray)

    def stats(self) -> ClusterStats:
        """Return the cluster's state. Raises SlipstreamError where its router cannot be reached."""
        import ray

        try:
            return msgspec.msgpack.decode(ray.get(self._router.stats.remote()), type=ClusterStats)
        except ray.exceptions.RayError as error:
            raise SlipstreamError(f"the router cannot be reached: {type(error).__name__}") from None

    def shutdown(self) -> None:
        """End what this object started, Ray included where it started that. Doing so twice does no harm."""
        _end(self._router if self._is_started else None, self._workers, owns_ray=self._owns_ray)
        self._router, self._workers, self._owns_ray, self._is_started = None, (), False, False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()


def needed(config: ClusterConfig) -> tuple[float, float]:
    """Return the CPUs and GPUs that the workers of a configuration reserve."""
    every = [pool.config for pool in config.pools]
    num_cpus = sum(pool.worker.num_cpus * pool.replicas for pool in every)
    return num_cpus, sum(pool.worker.num_gpus * pool.replicas for pool in every)


def _start_ray(config: ClusterConfig) -> bool:
    """Make sure that this process is connected to a Ray. Returns whether that has to be undone."""
    import ray

    num_cpus, num_gpus = needed(config)
    owns_ray = not ray.is_initialized()
    if owns_ray and "RAY_ADDRESS" in os.environ:
        _init_ray(address=os.environ["RAY_ADDRESS"])
    elif owns_ray:
        _init_ray(
            address="local",
            num_cpus=max(os.cpu_count() or 1, math.ceil(num_cpus)),
            resources=config.custom_resources,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
        )
    present = ray.cluster_resources()
    if num_gpus > present.get("GPU", 0.0) or num_cpus > present.get("CPU", 0.0):
        message = (
            f"the workers need {num_cpus:g} CPUs and {num_gpus:g} GPUs, but Ray has {present.get('CPU', 0.0):g} and "
            f"{present.get('GPU', 0.0):g}: lower replicas, num_cpus or num_gpus, or add hosts"
        )
        if owns_ray and "RAY_ADDRESS" not in os.environ:
            ray.shutdown()
            raise ConfigError(message)
        logger.warning("%s; waiting for an autoscaler to add them", message)
    return owns_ray


def _init_ray(**options: Any) -> None:
    prepare_environment()
    import ray

    ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options)


def _begin_router(config: ClusterConfig) -> Any:
    """Start the router. Raises SlipstreamError where one runs already."""
    from actors.start import get_router, start_router

    try:
        get_router()
    except SlipstreamError:
        return start_router(
            config.router,
            models=(config.name,),
            drafts=tuple(config.draft_models),
            description=msgspec.msgpack.encode(config),
        )
    raise SlipstreamError("a Slipstream cluster runs on this Ray already: connect to it, or shut it down first")


def _begin_workers(config: ClusterConfig, engine_factory: EngineFactory, workers: list[Any]) -> None:
    """Start all workers at once, entering each into ``workers``."""
    from actors.start import start_worker, worker_name

    for role, draft_pool, pool in config.pools:
        for index in range(pool.replicas):
            workers.append(
                start_worker(
                    role,
                    config.name,
                    config.worker_config(pool),
                    config.router,
                    worker_id=worker_name(role, config.name, draft_pool, str(index)),
                    draft_pool=draft_pool,
                    engine_factory=engine_factory,
                )
            )


async def _until_ready(router: Any, workers: list[Any], say: Say) -> None:
    """Wait until every worker has loaded its model and the router knows it. Raises what loading raised."""
    num_ready = 0

    async def wait(worker: Any) -> None:
        nonlocal num_ready
        await worker.ready()
        num_ready += 1
        say(f"loading models: {num_ready} of {len(workers)} actors ready")

    say(f"loading models: 0 of {len(workers)} actors ready")
    tasks = [asyncio.ensure_future(wait(worker)) for worker in workers]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    deadline = time.monotonic() + REGISTER_TIMEOUT
    wanted = {worker.worker_id for worker in workers}
    while True:
        stats = msgspec.msgpack.decode(await router.stats.remote(), type=ClusterStats)
        if wanted <= {worker.info.worker_id for worker in stats.workers if worker.is_alive}:
            return
        if time.monotonic() > deadline:
            raise SlipstreamError(f"not all workers have registered with the router within {REGISTER_TIMEOUT:g} s")
        await asyncio.sleep(POLL_INTERVAL)


def _end(router: Any, workers: list[Any] | tuple[Any, ...], *, owns_ray: bool) -> None:
    import ray

    if ray.is_initialized():
        for worker in workers:
            worker.kill()
        if router is not None:
            ray.kill(router, no_restart=True)
        if owns_ray:
            ray.shutdown()


@contextlib.contextmanager
def _progress() -> Iterator[Say]:
    """Give a function that shows one line on stderr, replaced by the next; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield logger.info
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update
