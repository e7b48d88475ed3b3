"""Pairs of models on a cluster of one target and one draft, and requests for them, for suites about speculation."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from actors.config import RouterConfig, WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from cluster.bench.prompts import built_in_prompts
from cluster.bench.runs import Runner
from cluster.config import ClusterConfig, PoolConfig
from cluster.generation_client import GenerationClient
from cluster.session import Cluster
from tests.benchmarks import workload


def synthetic(router: RouterConfig | None = None, *, num_threads: int = workload.NUM_THREADS) -> ClusterConfig:
    """The synthetic 200M pair in NF4."""

    def pool(path: Path) -> PoolConfig:
        engine = EngineConfig(num_blocks=512, prefix_cache=False)
        return PoolConfig(
            worker=WorkerConfig(model=workload.model_config(path), engine=engine, num_threads=num_threads)
        )

    pair = workload.pair()
    own = router or RouterConfig(draft_timeout=5.0)
    return ClusterConfig(name="synthetic", target=pool(pair.target_path), draft=pool(pair.draft_path), router=own)


def embedded(router: RouterConfig | None = None, *, draft: Path | None = None) -> ClusterConfig:
    """The embedded pair in NF4, its draft length adapted; ``draft`` replaces its draft."""
    demo = ClusterConfig.demo()
    assert demo.draft is not None
    worker = demo.draft.worker
    if draft is not None:
        model = ModelConfig(model=str(draft), tokenizer="demo", quantization="nf4")
        worker = msgspec.structs.replace(worker, model=model)
    return msgspec.structs.replace(
        demo, draft=PoolConfig(worker=worker), router=router or RouterConfig(draft_timeout=5.0)
    )


@contextlib.contextmanager
def running(config: ClusterConfig) -> Iterator[Runner]:
    """Start a cluster, and end it."""

    async def connect() -> GenerationClient:
        from actors.router_client import RouterClient

        client: GenerationClient = await RouterClient.connect()
        return client

    with Cluster.start(config), Runner(connect, config.name) as runner:
        yield runner


def synthetic_prompts(count: int, low: int = 64, high: int = 64, seed: int = 1) -> list[list[int]]:
    """Prompts of random ids."""
    return workload.ragged_prompts(count, low, high, seed=seed)


def embedded_prompts(count: int) -> list[list[int]]:
    """Passages of prose that the embedded pair was not trained on."""
    from cluster.tokenization import load_tokenizer

    tokenizer = load_tokenizer(ModelConfig(model="demo"))
    return [list(tokenizer(text).input_ids) for text in built_in_prompts()[:count]]


def greedy(prompts: Sequence[Sequence[int]], num_new_tokens: int) -> Callable[[int | None], list[Request]]:
    """From a draft length to fresh requests, which go on to their full length."""

    def make(k: int | None) -> list[Request]:
        params = GenerationParams(max_new_tokens=num_new_tokens, ignore_eos=True, num_assistant_tokens=k)
        return [
            Request(request_id=uuid.uuid4().hex, prompt_token_ids=tuple(prompt), params=params) for prompt in prompts
        ]

    return make
