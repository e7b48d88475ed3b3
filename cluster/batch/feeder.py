"""Feeds a cluster with the requests of many batches at once. Ray Data makes actors of this class."""

import asyncio
import time
import uuid

import msgspec
import pyarrow as pa

from cluster.batch.answering import Answer, Answerer, OpenAnswerer
from cluster.batch.records import BatchError, answer_record, parse_line, request_seed
from cluster.config import ClusterConfig

OVERLOADED = 429
MAX_ATTEMPTS = 3
RETRY_DELAY = 0.5
PATIENCE = 60.0
OVERLOAD_DELAY = 0.25


class Feeder:
    """Answers a table of lines. Calls overlap, and share one bound on the requests that the cluster has at a time.

    The bound holds over all batches: where one has few requests left, the next ones' are already running.

    Args:
        open_answerer: connects to the cluster, at the first call.
        config: the cluster's configuration, as JSON.
        seed: the job's.
        max_in_flight: requests at a time.
        patience: seconds in which a cluster that does not serve may come back.
    """

    def __init__(
        self,
        open_answerer: OpenAnswerer,
        config: bytes,
        seed: int,
        max_in_flight: int,
        patience: float = PATIENCE,
    ) -> None:
        self._open_answerer = open_answerer
        self._config = msgspec.json.decode(config, type=ClusterConfig)
        self._seed = seed
        self._max_in_flight = max_in_flight
        self._patience = patience
        self._answerer: asyncio.Task[Answerer] | None = None
        self._slots: asyncio.Semaphore | None = None

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer lines of valid requests (column ``line``).

        Returns columns ``key`` and ``record``, a result each, and the tokens that it took. Raises BatchError where the
        cluster has gone.
        """
        results = await asyncio.gather(*(self._run(line) for line in batch["line"].to_pylist()))
        return pa.Table.from_pylist(results, schema=SCHEMA)

    async def _run(self, raw: bytes) -> dict[str, object]:
        line = parse_line(raw)
        answerer = await self._open()
        assert self._slots is not None
        async with self._slots:
            answer = await self._answer(answerer, line.url, bytes(line.body), request_seed(self._seed, line.custom_id))
        request_id = f"req-{uuid.uuid4().hex}"
        return {
            "key": line.custom_id,
            "record": answer_record(line.custom_id, request_id, answer.status_code, answer.body),
            "num_prompt_tokens": answer.num_prompt_tokens,
            "num_completion_tokens": answer.num_completion_tokens,
        }

    async def _answer(self, answerer: Answerer, url: str, body: bytes, seed: int) -> Answer:
        """Answer one request. What is not its own fault is tried again, and is no result while nothing serves."""
        num_attempts = 0
        served_at = time.monotonic()
        while True:
            answer = await answerer.answer(url, body, seed)
            if answer.status_code == OVERLOADED:
                await asyncio.sleep(OVERLOAD_DELAY)
                continue
            if answer.status_code < 500:
                return answer
            if await answerer.is_serving():
                num_attempts += 1
                served_at = time.monotonic()
                if num_attempts == MAX_ATTEMPTS:
                    return answer
            elif time.monotonic() - served_at > self._patience:
                raise BatchError(f"the cluster has gone: {answer.body.decode(errors='replace')}")
            await asyncio.sleep(RETRY_DELAY)

    async def _open(self) -> Answerer:
        if self._answerer is None:
            self._slots = asyncio.Semaphore(self._max_in_flight)
            self._answerer = asyncio.ensure_future(self._open_answerer(self._config))
        return await self._answerer


SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "record": pa.binary(),
        "num_prompt_tokens": pa.int64(),
        "num_completion_tokens": pa.int64(),
    }
)
"""Columns of a feeder's answer."""
