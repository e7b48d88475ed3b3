"""What the router's own work costs: the real router, real frames, targets that only pretend. Its time is measured."""

import statistics
import time
from collections import defaultdict
from typing import Any

from actors.codec import decode, encode
from actors.config import RouterConfig
from actors.engine.params import GenerationParams
from actors.engine.request import Delta, EngineStats, Request
from actors.messages import Deltas, Message, Report, Start, Submit
from actors.router import Router
from actors.status import WorkerInfo

STREAMS_A_TARGET = 64
TOKENS_A_ROUND = 2
ROUND_TIMES = (0.020, 0.050, 0.100)  # of 64 streams on a target; 50 ms is what the simulated curve gives at that load
NUM_ROUNDS = 20
REPORTS_EVERY = 10
TICKS_EVERY = 5


class EncodingLink:
    """Encodes what is sent, as a real link does, lets it go, and notes where requests are placed."""

    def __init__(self) -> None:
        self.placed: defaultdict[str, list[str]] = defaultdict(list)

    def send(self, peer: str, message: Message) -> None:
        """See :class:`actors.link.Link`."""
        encode(message)
        if isinstance(message, Start):
            self.placed[peer].append(message.request.request_id)


def router_seconds(num_streams: int) -> float:
    """Processor time of the router in one round of so many streams."""
    link = EncodingLink()
    router = Router(link, RouterConfig(max_num_requests=num_streams), lambda: 1.0)
    num_targets = -(-num_streams // STREAMS_A_TARGET)
    infos = [
        WorkerInfo(worker_id=f"{role}-{n}", role=role, pool="simulated", model="simulated", pid=n)
        for role in ("draft", "target")
        for n in range(num_targets)
    ]
    for info in infos:
        router.handle(Report(info=info, stats=EngineStats()))
    params = GenerationParams(max_new_tokens=10_000)
    for n in range(num_streams):
        request = Request(request_id=f"request-{n:08d}", prompt_token_ids=tuple(range(200)), params=params)
        refusal = router.submit(Submit(client_id="client", model="simulated", request=request))
        assert refusal is None, refusal
    placed = {worker_id: tuple(held) for worker_id, held in link.placed.items()}
    reports = [encode(Report(info=i, stats=EngineStats(), request_ids=placed.get(i.worker_id, ()))) for i in infos]
    seconds = 0.0
    for number in range(NUM_ROUNDS):
        frames = [encode(_deltas(worker_id, held, number)) for worker_id, held in placed.items()]
        frames += reports if number % REPORTS_EVERY == 0 else []
        started = time.process_time()
        for frame in frames:
            router.handle(decode(frame))
        if number % TICKS_EVERY == 0:
            router.tick()
        seconds += time.process_time() - started
    stats = router.stats()
    assert stats.num_generated_tokens == num_streams * NUM_ROUNDS * TOKENS_A_ROUND, "tokens were lost"
    return seconds / NUM_ROUNDS


def capacity(repeats: int) -> dict[str, Any]:
    """Streams in flight at which the router works for a tenth of the round, from its time at two sizes."""
    sizes = (512, 2048)
    seconds = {size: statistics.median(router_seconds(size) for _ in range(max(3, repeats))) for size in sizes}
    a_stream = (seconds[sizes[1]] - seconds[sizes[0]]) / (sizes[1] - sizes[0])
    fixed = max(0.0, seconds[sizes[0]] - a_stream * sizes[0])
    by_round = {str(length): int((0.1 * length - fixed) / a_stream) for length in ROUND_TIMES}
    return {
        "microseconds_a_stream_and_round": a_stream * 1e6,
        "streams_at_a_tenth_by_round": by_round,
        "streams_at_a_tenth": by_round["0.05"],
    }


def _deltas(worker_id: str, held: tuple[str, ...], number: int) -> Deltas:
    token_ids = tuple(range(TOKENS_A_ROUND))
    items = tuple(
        Delta(request_id=i, start=number * TOKENS_A_ROUND, token_ids=token_ids, num_drafted=3, num_accepted=1)
        for i in held
    )
    return Deltas(worker_id=worker_id, items=items)
