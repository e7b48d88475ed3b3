"""A cluster of one target in this process: real loading, engine, loop and native runs; no Ray, router or draft."""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator

from actors.config import ROUTER_NAME, RouterConfig
from actors.engine.declared_call import DeclaredCall
from actors.engine.encoder_decoder import EncoderDecoderEngine
from actors.engine.engine import Engine
from actors.engine.errors import RequestError
from actors.engine.native_generation import NativeCall
from actors.engine.request import Delta, Request
from actors.messages import Deltas, Message, Refuse, Start
from actors.native_client import Result
from actors.native_job import Tokens
from actors.status import ClusterStats, WorkerInfo, WorkerStatus
from actors.target_loop import TargetLoop
from cluster.generation_client import ModelClient
from tests.cluster.native_here import run_here


class EngineClient(ModelClient):
    """Runs the target from whichever request waits. Belongs to one event loop."""

    def __init__(self, engine: Engine | EncoderDecoderEngine, pool: str = "matrix") -> None:
        self._engine = engine
        self._pool = pool
        self._arrived: defaultdict[str, deque[Delta]] = defaultdict(deque)
        info = WorkerInfo(worker_id="target", role="target", pool="matrix", model="matrix")
        self._loop = TargetLoop(engine, self, info, ROUTER_NAME, RouterConfig(), time.monotonic)
        self.num_native = 0

    def send(self, peer: str, message: Message) -> None:
        """See :class:`actors.link.Link`: what the target tells its router."""
        match message:
            case Deltas(items=deltas):
                for delta in deltas:
                    self._arrived[delta.request_id].append(delta)
            case Refuse():
                raise RequestError(message.error, field=message.field, limit=message.limit)

    async def generate(self, request: Request, model: str) -> AsyncIterator[Delta]:
        """See :class:`cluster.generation_client.GenerationClient`."""
        self._loop.handle(Start(request=request))
        is_finished = False
        while not is_finished:
            while not self._arrived[request.request_id]:
                self._loop.run_once()
                await asyncio.sleep(0)
            delta = self._arrived[request.request_id].popleft()
            is_finished = delta.finish_reason is not None
            yield delta

    async def run_native(self, call: NativeCall | DeclaredCall, model: str) -> AsyncIterator[Tokens | Result]:
        """See :class:`cluster.generation_client.ModelClient`."""
        self.num_native += 1
        async for item in run_here(self._engine.native, call):
            yield item

    async def stats(self) -> ClusterStats:
        """See :class:`cluster.generation_client.GenerationClient`."""
        info = WorkerInfo(
            worker_id="target",
            role="target",
            pool=self._pool,
            model="tiny",
            vocab_size=self._engine.vocab_size,
            max_model_len=self._engine.max_model_len,
            is_encoder_decoder=isinstance(self._engine, EncoderDecoderEngine),
        )
        return ClusterStats(workers=(WorkerStatus(info=info),))

    async def close(self) -> None:
        """Nothing to leave."""
