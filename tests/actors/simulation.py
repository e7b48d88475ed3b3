"""A whole cluster in one thread: router, targets, drafts and a client over a network that loses and repeats."""

from collections.abc import Iterable

from actors.config import ROUTER_NAME, RouterConfig
from actors.draft_loop import DraftLoop
from actors.engine.request import FinishReason, Request
from actors.journal import Contradiction, Gap, Journal
from actors.messages import Deltas, Message, Refuse, Submit
from actors.request_stats import RequestTally
from actors.router import Router
from actors.target_loop import TargetLoop
from tests.actors.fakes import FakeClock, FakeEngine, LossyNetwork, make_info

CLIENT = "client-sim"
TURN = 0.001


class Simulation:
    """Runs loops in turns of one millisecond. The client does what ``RouterClient`` does, without a loop of its own."""

    def __init__(
        self,
        *,
        seed: int = 0,
        loss: float = 0.0,
        twice: float = 0.0,
        delay: float = 0.0,
        agreement: float = 0.8,
        config: RouterConfig | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.network = LossyNetwork(self.clock, seed, loss=loss, twice=twice, delay=delay)
        self.config = config or RouterConfig(num_assistant_tokens=4, draft_timeout=0.05, worker_timeout=2.0)
        self.agreement = agreement
        self.loops: dict[str, TargetLoop | DraftLoop] = {}
        self.engines: dict[str, FakeEngine] = {}
        self.journals: dict[str, Journal] = {}
        self.tallies: dict[str, RequestTally] = {}
        self.errors: dict[str, str] = {}
        self.refusals: dict[str, Refuse] = {}
        self.num_deltas = 0
        self._pid = 0
        self._next_beat = 0.0
        self._missing: set[str] = set()
        self._accepted: set[str] = set()
        self._served_by: dict[str, str] = {}
        self._num_routers = 0
        self._unsent: dict[str, None] = {}  # requests that the client could not hand to a router yet
        self.start_router()
        self.network.receivers[CLIENT] = self._receive

    def start_router(self) -> None:
        """Start a router, in place of the one there is or was."""
        is_restart, self._num_routers = self._num_routers > 0, self._num_routers + 1
        self.router = Router(self.network, self.config, self.clock, models=("demo",), is_restart=is_restart)
        self.is_router_up = True
        self.network.receivers[ROUTER_NAME] = self.router.handle
        for request_id in self._unsent:
            self._submit(request_id)
        self._unsent.clear()

    def kill_router(self) -> None:
        """End the router; the client notices at once, and hands its requests to the next one."""
        self.is_router_up = False
        del self.network.receivers[ROUTER_NAME]
        self._unsent |= dict.fromkeys(self.open_ids())

    def start(self, worker_id: str) -> None:
        """Start a worker, in place of the one that had this name."""
        self._pid += 1
        is_target = worker_id.startswith("target")
        info = make_info(worker_id, "target" if is_target else "draft", pid=self._pid)
        engine = FakeEngine(agreement=self.agreement)
        loop_class = TargetLoop if is_target else DraftLoop
        loop = loop_class(engine, self.network, info, ROUTER_NAME, self.config, self.clock)
        self.loops[worker_id], self.engines[worker_id] = loop, engine
        self.network.receivers[worker_id] = loop.handle

    def kill(self, worker_id: str, *, is_noticed: bool = True) -> None:
        """End a worker without a word; a death that is not noticed shows only in its silence."""
        del self.loops[worker_id], self.engines[worker_id], self.network.receivers[worker_id]
        if is_noticed and self.is_router_up:
            self.router.worker_gone(worker_id, "killed")

    def submit(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.journals[request.request_id] = Journal(request)
            self.tallies[request.request_id] = RequestTally()
            self._submit(request.request_id)

    def open_ids(self) -> list[str]:
        return [i for i, journal in self.journals.items() if not journal.is_finished and i not in self.refusals]

    def turn(self) -> None:
        self.clock.advance(self._idle_time() or TURN)
        self.network.deliver()
        for worker_id, loop in list(self.loops.items()):
            try:
                loop.run_once()
            except RuntimeError:
                self.kill(worker_id)
                self.start(worker_id)
        if self.is_router_up:
            self.router.tick()
        if self.clock() >= self._next_beat:
            self._next_beat = self.clock() + 0.2
            if not self.is_router_up:
                return
            unknown = set(self.router.client_alive(CLIENT, self.open_ids()))
            for request_id in sorted(unknown & self._missing):
                self._submit(request_id)
            self._missing = unknown

    def _idle_time(self) -> float:
        """Seconds in which nothing happens at all, so that no turns need to be spent on them."""
        if any(loop.has_work() for loop in self.loops.values()):
            return 0.0
        events = [self._next_beat, self.network.next_time(), *(loop.next_deadline() for loop in self.loops.values())]
        return max(0.0, min(events) - self.clock())

    def run(self, max_num_turns: int = 20_000) -> None:
        """Run until every request has ended."""
        for _ in range(max_num_turns):
            if not self.open_ids():
                return
            self.turn()
        raise AssertionError(f"still open after {max_num_turns} turns: {self.open_ids()}")

    def emitted(self, request_id: str) -> tuple[int, ...]:
        return tuple(self.journals[request_id].token_ids)

    def _submit(self, request_id: str) -> None:
        if not self.is_router_up:
            self._unsent[request_id] = None
            return
        message = Submit(
            client_id=CLIENT,
            model="demo",
            request=self.journals[request_id].resume(),
            is_again=request_id in self._accepted,
            target_id=self._served_by.get(request_id, ""),
        )
        refusal = self.router.submit(message)
        if refusal is not None:
            self.refusals[request_id] = refusal
        else:
            self._accepted.add(request_id)

    def _receive(self, message: Message) -> None:
        if isinstance(message, Refuse):
            self.refusals[message.request_id] = message
        if not isinstance(message, Deltas):
            return
        for delta in message.items:
            self.num_deltas += 1
            if delta.finish_reason is FinishReason.ERROR:
                self.errors[delta.request_id] = delta.error
            try:
                fresh = self.journals[delta.request_id].accept(delta)
            except (Gap, Contradiction):
                self._submit(delta.request_id)
            else:
                self._served_by[delta.request_id] = message.worker_id
                if fresh is not None:
                    self.tallies[delta.request_id].add(fresh)
