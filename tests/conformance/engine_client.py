"""A cluster of one engine in this process: real loading, real engine, real native runs; no Ray and no messages."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator

from actors.engine.declared_call import DeclaredCall
from actors.engine.encoder_decoder import EncoderDecoderEngine
from actors.engine.engine import Engine
from actors.engine.native_generation import NativeCall
from actors.engine.request import Delta, Request
from actors.native_client import Result
from actors.native_job import Tokens
from actors.status import ClusterStats, WorkerInfo, WorkerStatus
from cluster.generation_client import ModelClient
from tests.cluster.native_here import run_here


class EngineClient(ModelClient):
    """Steps the engine from whichever request waits. Belongs to one event loop."""

    def __init__(self, engine: Engine | EncoderDecoderEngine, pool: str = "matrix") -> None:
        self._engine = engine
        self._pool = pool
        self._arrived: defaultdict[str, deque[Delta]] = defaultdict(deque)
        self.num_native = 0

    async def generate(self, request: Request, model: str) -> AsyncIterator[Delta]:
        """See :class:`cluster.generation_client.GenerationClient`."""
        self._engine.add(request)
        is_finished = False
        while not is_finished:
            while not self._arrived[request.request_id]:
                for delta in self._engine.step():
                    self._arrived[delta.request_id].append(delta)
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
