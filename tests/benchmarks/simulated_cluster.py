"""Targets and drafts in virtual time: the real loops, engines that only wait, and a clock that only they move.

Every actor has a clock of its own, as far as it has come. The one that is furthest behind goes next, takes the
messages that have reached it by then, and runs once, in which its forward moves its clock; what it sends arrives a
message's time later. So actors compute side by side, the outcome is the same on every machine, and nothing waits.
"""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from actors.config import RouterConfig, SimulationConfig
from actors.draft_loop import DraftLoop
from actors.engine.config import EngineConfig
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from actors.messages import Deltas, Message, Start
from actors.simulated_engine import SimulatedEngine
from actors.status import WorkerInfo
from actors.target_loop import TargetLoop

VOCAB_SIZE = 32_000
ROUTER = "router"
MAX_ROWS = 100_000

StepTimes = tuple[tuple[int, float], ...]


@dataclass
class Actor:
    """One worker: its loop, how far its time has come, and what is on its way to it."""

    loop: TargetLoop | DraftLoop
    engine: SimulatedEngine
    clock: "VirtualClock"
    inbox: list[tuple[float, int, Message]] = field(default_factory=list)

    def next_time(self) -> float:
        """When it runs next."""
        if self.loop.has_work():
            return self.clock.now
        arrival = self.inbox[0][0] if self.inbox else float("inf")
        return max(self.clock.now, min(arrival, self.loop.next_deadline()))


class VirtualClock:
    """An actor's time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class Cluster:
    """Targets and drafts without a router; requests are placed by the caller.

    Args:
        config: of the loops.
        message_time: seconds from sending a message to its arrival.
    """

    def __init__(self, config: RouterConfig, message_time: float) -> None:
        self._config = config
        self._message_time = message_time
        self._actors: dict[str, Actor] = {}
        self._count = itertools.count()
        self._sender: VirtualClock | None = None
        self.tokens: list[tuple[float, int]] = []  # (time, tokens emitted then)
        self.num_messages = 0
        self.num_finished = 0

    def start(self, worker_id: str, step_times: StepTimes, acceptance: float = 0.0, second: float = 0.0) -> None:
        """Start a worker; its role is the first word of its name."""
        is_target = worker_id.startswith("target")
        info = WorkerInfo(
            worker_id=worker_id,
            role="target" if is_target else "draft",
            pool="simulated",
            model="simulated",
            vocab_size=VOCAB_SIZE,
        )
        clock = VirtualClock()
        clock.now = self.now()
        simulation = SimulationConfig(
            step_times=step_times, acceptance=acceptance, second_acceptance=second, vocab_size=VOCAB_SIZE
        )
        engine = SimulatedEngine(
            simulation, EngineConfig(num_blocks=1 << 20, max_num_seqs=4096), clock=clock, wait=clock.wait
        )
        loop_class = TargetLoop if is_target else DraftLoop
        loop = loop_class(engine, self, info, ROUTER, self._config, clock)
        self._actors[worker_id] = Actor(loop, engine, clock)

    def engine(self, worker_id: str) -> SimulatedEngine:
        """Return the engine of a worker."""
        return self._actors[worker_id].engine

    def submit(self, target_id: str, draft_id: str, count: int, num_tokens: int, seed: int = 0) -> None:
        """Start ``count`` requests of ``num_tokens`` each on a target."""
        for n in range(count):
            request = Request(
                request_id=f"r{next(self._count)}",
                prompt_token_ids=tuple(range(16)),
                params=GenerationParams(max_new_tokens=num_tokens, seed=1000 * seed + n),
            )
            self._post(target_id, self.now(), Start(request=request, draft_id=draft_id))

    def send(self, peer: str, message: Message) -> None:
        """See :class:`actors.link.Link`."""
        now = self._sender.now if self._sender is not None else self.now()
        if isinstance(message, Deltas):
            self.tokens.append((now, sum(len(delta.token_ids) for delta in message.items)))
            self.num_finished += sum(delta.finish_reason is not None for delta in message.items)
        elif peer in self._actors:
            self.num_messages += 1
            self._post(peer, now + self._message_time, message)

    def now(self) -> float:
        """Return the time up to which everything has happened."""
        return min((actor.next_time() for actor in self._actors.values()), default=0.0)

    def run(self, is_over: Callable[[], bool], until: float = float("inf")) -> None:
        """Let time pass until a condition holds or a time has come."""
        while not is_over():
            actor = min(self._actors.values(), key=Actor.next_time)
            time = actor.next_time()
            if time >= until:
                return
            actor.clock.now, self._sender = time, actor.clock
            while actor.inbox and actor.inbox[0][0] <= time:
                actor.loop.handle(heapq.heappop(actor.inbox)[2])
            actor.loop.run_once()
            self._sender = None

    def rate(self, since: float = 0.0, until: float = float("inf")) -> float:
        """Return tokens a second between two times."""
        inside = [(time, count) for time, count in self.tokens if since < time <= until]
        end = min(until, max((time for time, _ in inside), default=since))
        return sum(count for _, count in inside) / (end - since) if end > since else 0.0

    def _post(self, peer: str, time: float, message: Message) -> None:
        heapq.heappush(self._actors[peer].inbox, (time, next(self._count), message))


def flat(seconds: float) -> StepTimes:
    """Step times of a forward that costs the same whatever is in it: memory-bound."""
    return ((1, seconds), (MAX_ROWS, seconds))


def rising(seconds: float, knee: int) -> StepTimes:
    """Step times that are flat up to ``knee`` rows and in proportion to them behind: compute-bound."""
    return ((1, seconds), (knee, seconds), (MAX_ROWS, seconds * MAX_ROWS / knee))
