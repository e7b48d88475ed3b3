"""``python -m tests.cluster.batch.toy_job INPUT OUTPUT``: a whole job on a Ray and a toy cluster of its own."""

import json
import sys
import uuid
from pathlib import Path

import msgspec

from actors.config import RouterConfig, WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.request import Request
from actors.router_client import RouterClient
from cluster.batch.answering import Answer, Answerer
from cluster.batch.job import BatchJob, run_job
from cluster.config import ClusterConfig, PoolConfig
from cluster.session import Cluster
from tests.actors.fakes import ToyEngineFactory, make_request

STEP_TIME = 0.02
MAX_IN_FLIGHT = 16


class ToyAnswerer(Answerer):
    """Answers with a toy model's tokens. A body says how many, and may say the seed."""

    def __init__(self, client: RouterClient) -> None:
        self._client = client

    async def answer(self, url: str, body: bytes, seed: int) -> Answer:
        """See :class:`Answerer`."""
        request = toy_request(json.loads(body)["max_tokens"], seed)
        token_ids: list[int] = []
        async for delta in self._client.generate(request, "toy"):
            token_ids += delta.token_ids
        text = msgspec.json.encode({"token_ids": token_ids})
        return Answer(status_code=200, body=text, num_prompt_tokens=5, num_completion_tokens=len(token_ids))

    async def is_serving(self) -> bool:
        """See :class:`Answerer`."""
        return bool((await self._client.stats()).workers)


def toy_request(max_tokens: int, seed: int) -> Request:
    """What is run for a line."""
    return make_request(uuid.uuid4().hex, max_new_tokens=max_tokens, seed=seed)


async def open_toy(config: ClusterConfig) -> Answerer:
    """Connect to the toy cluster."""
    return ToyAnswerer(await RouterClient.connect())


def config() -> ClusterConfig:
    """A target and a draft."""
    worker = WorkerConfig(model=ModelConfig(model="toy"), engine=EngineConfig(max_num_seqs=8), num_cpus=0.5)
    pool = PoolConfig(worker=worker)
    return ClusterConfig(name="toy", target=pool, draft=pool, router=RouterConfig(report_interval=0.1))


if __name__ == "__main__":
    run_job(
        BatchJob(Path(sys.argv[1]), Path(sys.argv[2]), max_in_flight=MAX_IN_FLIGHT),
        lambda: Cluster.start(config(), engine_factory=ToyEngineFactory(step_time=STEP_TIME)),
        open_toy,
    )
