"""A cluster in this process: a tiny random Llama, stepped token by token behind the seam that the real client fills."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from actors.config import WorkerConfig
from actors.engine.config import ModelConfig
from actors.engine.declared_call import DeclaredCall
from actors.engine.errors import RequestError
from actors.engine.native_generation import NativeCall, NativeModel
from actors.engine.request import Delta, FinishReason, Request
from actors.native_client import Result
from actors.native_job import Tokens
from actors.status import ClusterStats
from cluster.config import ClusterConfig, PoolConfig
from cluster.generation_client import ModelClient
from cluster.model import ClusterModel
from tests.cluster.native_here import run_here

VOCAB_SIZE = 32
EOS = 2
PAD = 0


def tiny_llama(folder: Path) -> Any:
    """A random Llama whose logits are far apart, saved in ``folder``."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=EOS,
        pad_token_id=PAD,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=EOS, pad_token_id=PAD)
    model.save_pretrained(folder)
    return model


@dataclass
class ToyClient(ModelClient):
    """Greedy requests follow the model; sampled ones draw from (seed, position) alone.

    Attributes:
        num_per_step: tokens of a delta, as many as an accepted draft would bring.
        repeat: deliver each delta twice.
        fail: error of the last request, after its first delta.
        hang: wait for ever behind the first delta.
    """

    model: Any
    num_per_step: int = 3
    repeat: bool = False
    fail: str = ""
    hang: bool = False
    requests: list[Request] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    calls: list[NativeCall | DeclaredCall] = field(default_factory=list)
    taken_back: list[str] = field(default_factory=list)
    num_running: int = 0
    max_num_running: int = 0
    is_closed: bool = False

    async def generate(self, request: Request, model: str) -> AsyncIterator[Delta]:
        if model != "toy":
            raise RequestError(f"model: no {model!r} here", field="model")
        self.requests.append(request)
        self.num_running += 1
        self.max_num_running = max(self.max_num_running, self.num_running)
        is_done = False
        try:
            async for delta in self._deltas(request):
                is_done = delta.finish_reason is not None
                for _ in range(2 if self.repeat else 1):
                    yield delta
        finally:
            self.num_running -= 1
            if not is_done:
                self.taken_back.append(request.request_id)

    async def _deltas(self, request: Request) -> AsyncIterator[Delta]:
        tokens: list[int] = []
        finish: FinishReason | None = None
        while finish is None:
            start = len(tokens)
            while finish is None and len(tokens) - start < self.num_per_step:
                tokens.append(self._next(request, tokens))
                finish = _finish(request, tokens)
            await asyncio.sleep(0)
            yield Delta(
                request_id=request.request_id, start=start, token_ids=tuple(tokens[start:]), finish_reason=finish
            )
            if self.fail:
                yield Delta(
                    request_id=request.request_id,
                    start=len(tokens),
                    finish_reason=FinishReason.ERROR,
                    error=self.fail,
                )
                return
            if self.hang:
                await asyncio.Event().wait()

    def _next(self, request: Request, tokens: list[int]) -> int:
        params = request.params
        if params.do_sample:
            return random.Random(f"{params.seed}/{len(tokens)}").randrange(3, VOCAB_SIZE)
        ids = torch.tensor([[*request.prompt_token_ids, *tokens]])
        with torch.no_grad():
            logits = self.model(ids).logits[0, -1]
        if len(tokens) < (params.min_new_tokens or 0):
            logits[list(params.eos_token_id)] = -torch.inf
        return int(logits.argmax())

    async def run_native(self, call: NativeCall | DeclaredCall, model: str) -> AsyncIterator[Tokens | Result]:
        """In this process, on the same weights, with the actor's own code."""
        self.calls.append(call)
        async for item in run_here(NativeModel(self.model, "sdpa"), call):
            yield item

    async def stats(self) -> ClusterStats:
        return ClusterStats(num_requests=len(self.requests))

    async def close(self) -> None:
        self.is_closed = True


def _finish(request: Request, tokens: list[int]) -> FinishReason | None:
    if tokens[-1] in request.params.eos_token_id:
        return FinishReason.STOP
    return FinishReason.LENGTH if len(tokens) >= request.params.max_new_tokens else None


@dataclass
class FakeCluster:
    """Counts how often it was shut down."""

    num_shutdowns: int = 0

    def shutdown(self) -> None:
        self.num_shutdowns += 1


def cluster_model(folder: Path, client: ModelClient, cluster: FakeCluster | None = None) -> ClusterModel:
    """A ClusterModel over ``client`` whose target is the checkpoint in ``folder``."""

    async def connect() -> ModelClient:
        return client

    worker = WorkerConfig(model=ModelConfig(model=str(folder)))
    return ClusterModel(ClusterConfig(name="toy", target=PoolConfig(worker=worker)), connect, cluster)
