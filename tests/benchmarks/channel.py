"""What a round of messages costs: router, draft, target and back, over the channel and as actor calls.

Relays are actors with the real inbox, thread and link, but no engine: they pass on what they are told. A whole round is
one of the real cluster with engines that cost nothing, drafts that do not write ahead, and one stream, seen by its
reader: what loops, router and messages take together.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import ray

from actors.codec import decode
from actors.config import NAMESPACE, ROUTER_NAME, RouterConfig, SimulationConfig, WorkerConfig
from actors.dial import Listener
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.params import GenerationParams
from actors.engine.request import Delta, EngineStats, Request
from actors.inbox import Inbox
from actors.link import Link
from actors.loop_reader import LoopReader
from actors.messages import Close, Deltas, Extend, ExtendItem, Message, Proposal, Proposals
from actors.ray_channel import WorkerChannel, listen
from actors.ray_environment import prepare_environment
from actors.ray_link import RayLink
from actors.reporter import Reporter
from actors.router_client import RouterClient
from actors.socket_link import SocketLink
from actors.start import start_router, start_worker
from actors.status import WorkerInfo
from actors.worker import Work, Worker
from tests.benchmarks.measure import Bar, Report, interleave, sample

NUM_ROUNDS = 300  # a repeat; a figure is their median
NUM_SEQUENCES = 16
NUM_DRAFT_TOKENS = 4
NUM_TOKENS = 1500
WARM_UP = 50
MUST, AIM = 0.25, 0.10

IDS = tuple(range(1000, 1000 + NUM_DRAFT_TOKENS + 1))
Way = Literal["socket", "ray"]


class RelayLoop:
    """A worker's loop without an engine: what it is told it passes on, as the next message of a round."""

    is_stopped = False

    def __init__(self, worker_id: str, link: Link, next_peer: str) -> None:
        info = WorkerInfo(worker_id=worker_id, role="target", pool="relay", model="none")
        self.reporter = Reporter(link, ROUTER_NAME, info, interval=0.5)
        self._worker_id = worker_id
        self._link = link
        self._next_peer = next_peer

    def handle(self, message: Message) -> None:
        """Pass on."""
        match message:
            case Extend(items=items):
                proposals = tuple(
                    Proposal(request_id=i.request_id, start=i.start, token_ids=IDS[: i.num_draft_tokens]) for i in items
                )
                self._link.send(self._next_peer, Proposals(draft_id="draft", items=proposals))
            case Proposals(items=items):
                deltas = tuple(Delta(request_id=i.request_id, start=i.start, token_ids=IDS) for i in items)
                self._link.send(self._next_peer, Deltas(worker_id="target", items=deltas))

    def run_once(self) -> None:
        """Report on a beat, as every worker does; a target also opens its wire to the draft."""
        now = time.monotonic()
        if now >= self.reporter.next_time:
            self.reporter.send(now, EngineStats())
            if self._next_peer == ROUTER_NAME:
                self._link.send(self._worker_id.replace("target", "draft"), Close(request_ids=()))

    def has_work(self) -> bool:
        """Never."""
        return False

    def next_deadline(self) -> float:
        """The next beat."""
        return self.reporter.next_time


class Relay:
    """The actor of a relay: made as a model actor is."""

    def __init__(self, worker_id: str, role: Literal["target", "draft"], way: Way) -> None:
        inbox: Inbox[Work] = Inbox()
        self._channel = WorkerChannel(worker_id, role, inbox, is_direct=way == "socket")
        next_peer = ROUTER_NAME if role == "target" else worker_id.replace("draft", "target")
        self._worker = Worker(RelayLoop(worker_id, self._channel.link, next_peer), 0.5, lambda: None, inbox=inbox)
        self._worker.start()

    def channel(self) -> bytes | None:
        """See :class:`actors.ray_actors.ModelActor`."""
        return self._channel.endpoint()

    def receive(self, frame: bytes) -> None:
        """See :class:`actors.ray_actors.ModelActor`."""
        self._worker.put(decode(frame))

    def call(self, frame: bytes) -> bytes:
        """A hop of the plain actor call."""
        return frame


class Coordinator:
    """Stands in for the router: an asyncio actor that begins rounds and waits for their ends."""

    def __init__(self) -> None:
        self._link = SocketLink(ROUTER_NAME, RayLink(), LoopReader(lambda peer, message: self._take_in(message)))
        self._listener: Listener | None = None
        self._running: Any = None
        self._ended: asyncio.Future[None] | None = None

    async def channel(self) -> bytes:
        """See :class:`actors.ray_actors.RouterActor`."""
        if self._listener is None:
            self._listener = listen(ROUTER_NAME, self._link.accept)
            self._running = asyncio.ensure_future(self._listener.run())
        return msgspec.msgpack.encode(self._listener.endpoint)

    async def receive(self, frame: bytes) -> None:
        """See :class:`actors.ray_actors.RouterActor`."""
        self._take_in(decode(frame))

    async def is_connected(self, peer: str) -> bool:
        """Whether there is a wire."""
        return self._link.is_connected(peer)

    async def rounds(self, draft_id: str, count: int) -> list[float]:
        """Microseconds of some rounds, one after the other."""
        times = []
        for number in range(WARM_UP + count):
            items = tuple(
                ExtendItem(request_id=f"request-{n}", start=number, token_ids=IDS, num_draft_tokens=NUM_DRAFT_TOKENS)
                for n in range(NUM_SEQUENCES)
            )
            self._ended = asyncio.get_running_loop().create_future()
            began = time.perf_counter()
            self._link.send(draft_id, Extend(target_id="target", items=items))
            await self._ended
            times.append((time.perf_counter() - began) * 1e6)
        return times[WARM_UP:]

    async def calls(self, draft: Any, target: Any, count: int) -> list[float]:
        """Microseconds of two-hop actor calls, awaited as an asyncio actor awaits them."""
        times = []
        for _ in range(WARM_UP + count):
            began = time.perf_counter()
            await target.call.remote(draft.call.remote(b"x" * 200))
            times.append((time.perf_counter() - began) * 1e6)
        return times[WARM_UP:]

    def _take_in(self, message: Message) -> None:
        if isinstance(message, Deltas) and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


def run(repeats: int) -> Report:
    """Measure and report."""
    report = Report(
        name="channel",
        what="us of a round of messages: router, draft, target, router",
        settings={"sequences": NUM_SEQUENCES, "draft_tokens": NUM_DRAFT_TOKENS, "rounds_a_repeat": NUM_ROUNDS},
    )
    prepare_environment()
    ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=8,
        object_store_memory=10**8,
        include_dashboard=False,
        log_to_driver=False,
    )
    try:
        compare_relays(report, repeats)
        measure_cluster(report, repeats)
    finally:
        ray.shutdown()
    call = report.samples["two-hop actor call"].median
    for name in ("round over the channel", "whole round, channel"):
        report.settings[f"{name}, over a two-hop actor call"] = ratio = report.samples[name].median / call
        # Turned round, since bars are reached from below.
        report.bars.append(Bar(f"{MUST:g} over (a {name} over a two-hop call)", MUST / ratio, 1.0, MUST / AIM))
    return report


def compare_relays(report: Report, repeats: int) -> None:
    """The same messages over sockets and as actor calls, and the plain call that waits for its answer."""
    coordinator: Any = ray.remote(Coordinator).options(name=ROUTER_NAME, namespace=NAMESPACE, num_cpus=0).remote()
    relays: dict[tuple[str, str], Any] = {
        (way, role): ray.remote(Relay)
        .options(name=f"{way}-{role}", namespace=NAMESPACE, num_cpus=0)
        .remote(f"{way}-{role}", role, way)
        for way in ("socket", "ray")
        for role in ("target", "draft")
    }
    draft, target = relays["socket", "draft"], relays["socket", "target"]
    for role in ("target", "draft"):
        while not ray.get(coordinator.is_connected.remote(f"socket-{role}")):
            time.sleep(0.05)

    def median(times: list[float]) -> float:
        return sample("us", times).median

    def call() -> float:
        times = []
        for _ in range(WARM_UP + NUM_ROUNDS):
            began = time.perf_counter()
            ray.get(target.call.remote(draft.call.remote(b"x" * 200)))
            times.append((time.perf_counter() - began) * 1e6)
        return median(times[WARM_UP:])

    contenders: dict[str, Callable[[], float]] = {
        "two-hop actor call": call,
        "two-hop actor call, awaited": lambda: median(ray.get(coordinator.calls.remote(draft, target, NUM_ROUNDS))),
        "round over the channel": lambda: median(ray.get(coordinator.rounds.remote("socket-draft", NUM_ROUNDS))),
        "round as actor calls": lambda: median(ray.get(coordinator.rounds.remote("ray-draft", NUM_ROUNDS))),
    }
    report.samples |= interleave(contenders, unit="us", repeats=repeats)
    for actor in (coordinator, *relays.values()):
        ray.kill(actor)
    time.sleep(1.0)


def measure_cluster(report: Report, repeats: int) -> None:
    """The whole of a round with engines that cost nothing."""
    for channel in ("socket", "ray"):
        config = RouterConfig(channel=channel, num_assistant_tokens=NUM_DRAFT_TOKENS, overlap=False)
        worker = WorkerConfig(
            model=ModelConfig(model="demo"),
            engine=EngineConfig(num_blocks=65536, max_model_len=65536),
            simulation=SimulationConfig(acceptance=0.8),
            num_cpus=0,
        )
        router = start_router(config, models=("demo",))
        handles = [start_worker(role, "demo", worker, config) for role in ("target", "draft")]
        name = f"whole round, {'channel' if channel == 'socket' else 'actor calls'}"
        report.samples[name] = sample("us", asyncio.run(whole_rounds(repeats)))
        for handle in handles:
            handle.kill()
        ray.kill(router, no_restart=True)
        time.sleep(1.0)


async def whole_rounds(repeats: int) -> list[float]:
    """The median time between two deltas of a stream, a value a repeat."""
    client = await RouterClient.connect()
    try:
        while sum(worker.is_alive for worker in (await client.stats()).workers) < 2:
            await asyncio.sleep(0.1)
        return [await _round_time(client, number) for number in range(repeats + 1)][1:]
    finally:
        await client.close()


async def _round_time(client: RouterClient, number: int) -> float:
    params = GenerationParams(max_new_tokens=NUM_TOKENS, seed=number, ignore_eos=True)
    request = Request(request_id=f"round-{number}", prompt_token_ids=(1,) * 16, params=params)
    times: list[float] = []
    num_drafted = 0
    async for delta in client.generate(request, "demo"):
        times.append(time.perf_counter() * 1e6)
        num_drafted += delta.num_drafted
    assert num_drafted > len(times), "these rounds were to be drafted"
    return sample("us", [after - before for before, after in itertools.pairwise(times)]).median
