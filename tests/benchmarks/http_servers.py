"""The servers that ``http`` compares: our door on a model that costs nothing, and Starlette with the same chunks.

``python -m tests.benchmarks.http_servers KIND PORT [FILE]``, where the file holds the events as a JSON list of texts.
The kind is ``slipstream``; or ``starlette``, a stream as one writes it by hand, which asks the model for each step and
encodes a chunk; or ``starlette-bytes``, which sends bytes that lie ready, with nothing behind them.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from actors.config import SimulationConfig
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.params import GenerationParams
from actors.engine.request import Delta, Request
from actors.native_client import Result
from actors.native_job import Tokens
from actors.simulated_engine import SimulatedEngine
from actors.status import ClusterStats, WorkerInfo, WorkerStatus
from cluster.config import LimitsConfig
from serve_app.gateway import Gateway
from serve_app.served_model import read_tokenizer
from serve_app.web import build_web_app
from tests.served import VOCAB_SIZE

MODEL = "demo"
ENGINE = EngineConfig(num_blocks=65536, max_model_len=65536, max_num_seqs=1024)


class DirectClient:
    """A cluster in this very process: an engine that computes nothing, stepped by whoever reads."""

    async def generate(self, request: Request, model: str) -> AsyncIterator[Delta]:
        """See :class:`cluster.generation_client.GenerationClient`."""
        engine = SimulatedEngine(SimulationConfig(vocab_size=VOCAB_SIZE), ENGINE)
        engine.add(request)
        while engine.has_work():
            for delta in engine.step():
                await asyncio.sleep(0)  # others have their turn, as they have while a message is awaited
                yield delta

    async def run_native(self, call: Any, model: str) -> AsyncIterator[Tokens | Result]:
        """See :class:`cluster.generation_client.ModelClient`."""
        raise NotImplementedError("nothing is measured of whole calls")
        yield

    async def stats(self) -> ClusterStats:
        """See :class:`cluster.generation_client.GenerationClient`."""
        info = WorkerInfo(
            worker_id="target", role="target", pool=MODEL, model=MODEL, max_model_len=65536, vocab_size=VOCAB_SIZE
        )
        return ClusterStats(workers=(WorkerStatus(info=info),))

    async def close(self) -> None:
        """See :class:`cluster.generation_client.GenerationClient`."""


def slipstream() -> Any:
    """Our application, the same that an ingress runs."""

    async def connect() -> Gateway:
        tokenizer = read_tokenizer(ModelConfig(model=MODEL))
        return Gateway(DirectClient(), tokenizer, name=MODEL, limits=LimitsConfig(), defaults={})

    return build_web_app(connect, LimitsConfig())


def starlette(file: str, *, is_encoded: bool) -> Any:
    """Starlette and nothing else."""
    events = json.loads(Path(file).read_text())
    pieces = [event.encode() for event in events]
    chunks = [json.loads(event[6:]) for event in events[:-1]]

    async def lying_ready() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def by_hand() -> AsyncIterator[bytes]:
        params = GenerationParams(max_new_tokens=len(chunks))
        request = Request(request_id="a", prompt_token_ids=(1,) * 16, params=params)
        index = 0
        async for delta in DirectClient().generate(request, MODEL):
            for _ in delta.token_ids:
                yield b"data: " + json.dumps(chunks[index]).encode() + b"\n\n"
                index += 1
        yield pieces[-1]

    async def stream(request: HttpRequest) -> Response:
        await request.body()
        return StreamingResponse(lying_ready() if is_encoded else by_hand(), media_type="text/event-stream")

    async def health(request: HttpRequest) -> Response:
        return Response("ok")

    return Starlette(routes=[Route("/v1/completions", stream, methods=["POST"]), Route("/health", health)])


def main() -> None:
    """Serve what the command line says until ended."""
    kind, port, *rest = sys.argv[1:]
    app = slipstream() if kind == "slipstream" else starlette(*rest, is_encoded=kind == "starlette-bytes")
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", access_log=False)


if __name__ == "__main__":
    main()
