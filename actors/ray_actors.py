"""The actors themselves: thin shells that put frames into an inbox. What they do lies in the loops and the router."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec
import ray

from actors.client_streams import ClientStreams
from actors.codec import decode, encode
from actors.config import NAMESPACE, ROUTER_NAME, Role, RouterConfig, WorkerConfig
from actors.dial import Listener
from actors.draft_host import DraftHost
from actors.engine.errors import RequestError, SlipstreamError
from actors.engine_factory import EngineFactory
from actors.inbox import Inbox
from actors.loop_reader import LoopReader
from actors.messages import Accept, Message, Report, Submit
from actors.native_job import CancelJob, Failed, Finished, NativeJob, split_output
from actors.native_loop import NativeLoop
from actors.ray_channel import WorkerChannel, is_direct, listen
from actors.ray_link import RayLink
from actors.router import Router
from actors.socket_link import SocketLink
from actors.status import WorkerInfo
from actors.target_loop import TargetLoop
from actors.translation_loading import load_translation
from actors.wire import Wire
from actors.worker import Loop, Work, Worker

if TYPE_CHECKING:
    from actors.engine.declared_call import DeclaredCall
    from actors.engine.native_generation import NativeCall

logger = logging.getLogger(__name__)

CONTROL = "control"  # the concurrency group of calls that must be answered while others run
NATIVE = "native"  # the concurrency group of calls that last as long as a run of transformers' own generate
MAX_NUM_NATIVE_RUNS = 16
TICK_INTERVAL = 0.25
WATCH_TIME = 5.0
LOAD_ATTEMPTS = 3  # a restarted actor may find the memory of its predecessor not yet freed
LOAD_RETRY_DELAY = 3.0


class ModelActor:
    """One model on its devices behind one engine thread; its two subclasses say in which role."""

    role: ClassVar[Role]

    def __init__(
        self,
        worker_id: str,
        pool: str,
        worker_config: bytes,
        router_config: bytes,
        engine_factory: EngineFactory,
        draft_pool: str = "",
    ) -> None:
        worker = msgspec.msgpack.decode(worker_config, type=WorkerConfig)
        router = msgspec.msgpack.decode(router_config, type=RouterConfig)
        prepare_process(worker)
        self._info = WorkerInfo(
            worker_id=worker_id,
            role=self.role,
            pool=pool,
            model=worker.model.model,
            pid=os.getpid(),
            node=ray.get_runtime_context().get_node_id(),
            draft_pool=draft_pool,
        )
        self._worker: Worker | None = None
        self._channel: WorkerChannel | None = None
        self._error: SlipstreamError | None = None
        self._has_native = False
        is_restart = ray.get_runtime_context().was_current_actor_reconstructed
        for attempt in range(LOAD_ATTEMPTS if is_restart else 1):
            time.sleep(LOAD_RETRY_DELAY * (attempt > 0))
            # On a thread that ends: OpenMP keeps a pool for every thread that has computed, and once its pools hold
            # more threads than there are cores, none of them spins any more. A target's step took 2.5 times as long.
            with ThreadPoolExecutor(max_workers=1) as loader:
                self._error = loader.submit(self._load, worker, router, engine_factory).result()
            if self._error is None:
                return
        if is_restart:
            raise self._error or SlipstreamError(f"{worker_id} could not be restarted")

    def ready(self) -> tuple[bytes, SlipstreamError | None]:
        """Return what the worker is, as an encoded WorkerInfo, and the error that kept it from loading."""
        return msgspec.msgpack.encode(self._info), self._error

    def receive(self, frame: bytes) -> None:
        """Take in one message; it is only enqueued."""
        if self._worker is not None:
            self._worker.put(decode(frame))

    @ray.method(concurrency_group=CONTROL)
    def channel(self) -> bytes | None:
        """Return where this worker listens for direct connections, as an encoded Endpoint; None where it does not."""
        return self._channel.endpoint() if self._channel is not None else None

    @ray.method(concurrency_group=CONTROL)
    def watch(self, timeout: float) -> bool:
        """Return whether the engine thread has ended, waiting for that for ``timeout`` seconds.

        Who waits on this learns of the actor's death at once. The bound frees the thread of a caller that is dead.
        """
        return self._worker is None or self._worker.ended.wait(timeout)

    @ray.method(concurrency_group=CONTROL)
    def check_health(self) -> None:
        """Raise SlipstreamError where the engine thread has ended or hangs."""
        if self._worker is None or not self._worker.is_healthy():
            raise SlipstreamError(f"the engine thread of {self._info.worker_id} has ended or hangs")

    @ray.method(concurrency_group=CONTROL)
    def stop(self) -> None:
        """End the engine thread after its current forward; the router places its requests elsewhere."""
        if self._worker is not None:
            self._worker.stop()

    @ray.method(concurrency_group=CONTROL)
    def drain(self, timeout: float) -> None:
        """Take nothing new, let what runs finish for at most ``timeout`` seconds, then :meth:`stop`."""
        if self._worker is not None:
            self._worker.drain(timeout)

    @ray.method(concurrency_group=NATIVE)
    def generate(self, job_id: str, call: "NativeCall | DeclaredCall", assistant: Any = None) -> Iterator[Any]:
        """Run transformers' own ``generate``: yields an :class:`actors.native_job.Event` at a time.

        ``assistant`` is a model that came through the object store, to be the call's ``assistant_model``.

        Behind a :class:`actors.native_job.Output` come the fields that it names, each alone, and None: who asked holds
        references to them and fetches what it looks at.
        """
        worker = self._worker
        if worker is None:
            raise SlipstreamError(f"{self._info.worker_id} has no model")
        if not self._has_native:
            yield Failed(RequestError("this target is a simulation, which has no model to run that"))
            return
        if assistant is not None:
            native = cast("NativeCall", call)
            call = replace(native, arguments={**native.arguments, "assistant_model": assistant})
        job = NativeJob(job_id, call)
        worker.put(job)
        for event in job.read(is_alive=lambda: not worker.ended.is_set()):
            if isinstance(event, Finished):
                output, fields = split_output(event.output)
                yield output
                # Not ``yield from``: Ray sends into its generators, and a list's iterator cannot be sent to.
                for value in fields:  # noqa: UP028
                    yield value
                yield None
            else:
                yield event

    @ray.method(concurrency_group=CONTROL)
    def cancel_generate(self, job_id: str) -> None:
        """End a run of :meth:`generate` at its next forward."""
        if self._worker is not None:
            self._worker.put(CancelJob(job_id))

    def _load(self, worker: WorkerConfig, router: RouterConfig, factory: EngineFactory) -> SlipstreamError | None:
        try:
            engine, self._info = factory(self._info, worker)
            translation = load_translation(worker, self._info.vocab_size)
        except SlipstreamError as error:
            return error
        except Exception as error:
            logger.exception("%s could not load its model", self._info.worker_id)
            return SlipstreamError(f"{self._info.worker_id} could not load {worker.model.model!r}: {error!r}")
        inbox: Inbox[Work] = Inbox()
        worker_id = self._info.worker_id
        self._channel = WorkerChannel(worker_id, self.role, inbox, is_direct=is_direct(router.channel, os.environ))
        link = self._channel.link
        loop: Loop
        if self.role == "target":
            loop = TargetLoop(engine, link, self._info, ROUTER_NAME, router, time.monotonic)
        else:
            loop = DraftHost(engine, link, self._info, ROUTER_NAME, router, time.monotonic, translation)
        if (native := getattr(engine, "native", None)) is not None:  # simulations have none
            loop = NativeLoop(loop, native)
            self._has_native = True
        self._worker = Worker(loop, router.report_interval, on_error=give_up, inbox=inbox)
        self._worker.start()
        return None


class TargetActor(ModelActor):
    """Runs the model whose tokens are emitted."""

    role = "target"


class DraftActor(ModelActor):
    """Runs the model that proposes, and that can be asked itself."""

    role = "draft"


class RouterActor:
    """Drives a :class:`Router` on the event loop of an asyncio actor; nothing it does there blocks."""

    def __init__(
        self, config: bytes, description: bytes, models: tuple[str, ...] = (), drafts: tuple[str, ...] = ()
    ) -> None:
        self._description = description
        self._config = msgspec.msgpack.decode(config, type=RouterConfig)
        self._streams = ClientStreams(workers=RayLink())
        self._link = SocketLink(ROUTER_NAME, self._streams, LoopReader(self._take_in))
        self._listener: Listener | None = None
        self._router = Router(
            self._link,
            self._config,
            time.monotonic,
            models,
            drafts,
            is_restart=ray.get_runtime_context().was_current_actor_reconstructed,
        )
        self._watched: set[tuple[str, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ticking = False

    async def receive(self, frame: bytes) -> None:
        """Take in one message of a worker or a client."""
        self._keep_ticking()
        self._take_in("", decode(frame))

    async def submit(self, frame: bytes) -> bytes | None:
        """Take a request in. Returns an encoded Refuse where it is refused at once."""
        self._keep_ticking()
        message = decode(frame)
        if not isinstance(message, Submit):
            raise TypeError(f"a Submit is expected, but this is a {type(message).__name__}")
        refusal = self._router.submit(message)
        return encode(refusal) if refusal is not None else None

    async def subscribe(self, client_id: str) -> AsyncIterator[bytes]:
        """Yield encoded messages for one client, all its requests in one stream, until it subscribes anew."""
        self._keep_ticking()
        async for message in self._streams.listen(client_id):
            yield encode(message)

    async def channel(self) -> bytes | None:
        """Return where the router listens for direct connections, as an encoded Endpoint; None where it does not."""
        if self._listener is None and is_direct(self._config.channel, os.environ):
            self._listener = listen(ROUTER_NAME, self._connected)
            self._spawn(self._listener.run())
        return msgspec.msgpack.encode(self._listener.endpoint) if self._listener is not None else None

    async def client_alive(self, client_id: str, request_ids: list[str]) -> list[str]:
        """Note a client's sign of life. Returns those of its requests that are unknown here."""
        self._keep_ticking()
        return self._router.client_alive(client_id, request_ids)

    async def describe(self) -> bytes:
        """Return what the cluster was started from, as it was given; the router makes nothing of it."""
        return self._description

    async def stats(self) -> bytes:
        """Return the cluster's state as an encoded ClusterStats."""
        self._keep_ticking()
        return msgspec.msgpack.encode(self._router.stats())

    def _connected(self, wire: Wire) -> None:
        """Talk to a worker or a client over its wire from now on."""
        self._keep_ticking()
        self._link.accept(wire)
        for message in self._streams.take(wire.peer):
            self._link.send(wire.peer, message)

    def _take_in(self, peer: str, message: Message) -> None:
        """Take in one message of ``peer``, or of whoever where it came by a call."""
        if isinstance(message, Submit):
            refusal = self._router.submit(message)
            self._link.send(message.client_id, refusal or Accept(request_id=message.request.request_id))
            return
        if isinstance(message, Report):
            self._keep_watching(message.info)
        self._router.handle(message)

    def _keep_ticking(self) -> None:
        """Start the ticker with the first call: an actor's constructor runs before its event loop does."""
        if not self._is_ticking:
            self._is_ticking = True
            self._spawn(self._tick())

    def _keep_watching(self, info: WorkerInfo) -> None:
        """Learn of a worker's death as soon as Ray does, long before its silence would tell."""
        key = (info.worker_id, info.pid)
        if key not in self._watched:
            self._watched.add(key)
            self._spawn(self._watch(info))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_INTERVAL)
            try:
                self._streams.drop(self._router.tick())
            except Exception:
                logger.exception("the router's tick failed")

    async def _watch(self, info: WorkerInfo) -> None:
        try:
            handle = await asyncio.to_thread(ray.get_actor, info.worker_id, NAMESPACE)
            while not await handle.watch.remote(WATCH_TIME):
                pass
            error = ""
        except (ray.exceptions.RayError, ValueError) as problem:
            error = f"its process died: {type(problem).__name__}"
        finally:
            self._watched.discard((info.worker_id, info.pid))
        self._router.worker_gone(info.worker_id, error, pid=info.pid)


def prepare_process(worker: WorkerConfig) -> None:
    """Set what the numeric libraries read when they are first imported, which has yet to happen here.

    OpenMP's threads wait for their next piece of work by spinning, for about a millisecond here: without any spinning
    each of the hundreds of pieces of a forward pays for a wake-up, and without a bound they take the cores of others.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(worker.num_threads)
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not worker.num_gpus:
        # Nothing is compiled on CPUs, but bitsandbytes loads the compiler all the same: two seconds an actor.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


def give_up() -> None:
    """End this process: its engine cannot go on. Ray starts the actor anew."""
    with contextlib.suppress(Exception):
        logging.shutdown()
    os._exit(1)
