"""The GPU's attention kernels, run by Triton's interpreter on the CPU: dense attention in float64 is the oracle."""

import importlib
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from actors.engine.batch import Span
from actors.engine.compiled_layers import CompiledLayers
from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from actors.engine.kv_cache import KVCache
from actors.engine.params import GenerationParams
from actors.engine.probe import UnsupportedModelError, check_paged, probe_layers
from actors.engine.runner import kernel_runner
from tests.actors.engine.harness import generate, ragged_prompts, requests, run, tiny_loaded, tokens
from tests.actors.engine.test_exactness import EOS, noisy_drafter

pytest.importorskip("triton", reason="Triton has no wheels for this platform")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the kernels are compiled: make gpu")

SEQUENCES = [(1, 1), (5, 37), (1, 600), (2, 530)]  # queries, keys


@pytest.fixture(scope="module")
def kernels() -> Iterator[Any]:
    """The module of the kernels, read while the interpreter is asked for."""
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        yield importlib.import_module("actors.engine.paged_kernels")
    finally:
        del os.environ["TRITON_INTERPRET"]


def dense(
    query: torch.Tensor,  # (H, Q, D)
    keys: torch.Tensor,  # (K, G, D)
    values: torch.Tensor,  # (K, G, E)
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of the last Q of K positions, (Q, H, E) float64."""
    num_heads, num_queries, dim = query.shape
    num_keys, num_groups = keys.shape[:2]
    keys, values = (
        t.transpose(0, 1).repeat_interleave(num_heads // num_groups, 0).double() for t in (keys, values)
    )  # (H, K, ·)
    scores = query.double() @ keys.transpose(1, 2) * dim**-0.5
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    behind = torch.arange(num_keys - num_queries, num_keys)[:, None] - torch.arange(num_keys)[None]
    is_seen = (behind >= 0) & (behind < (window or num_keys))
    weights = scores.masked_fill(~is_seen, float("-inf")).softmax(-1)
    result: torch.Tensor = (weights @ values).transpose(0, 1)
    return result


@pytest.mark.parametrize("num_splits", [1, 4])
@pytest.mark.parametrize(
    ("heads", "window", "softcap", "dtype"),
    [
        ((4, 2, 16, 16), None, None, torch.float32),
        ((4, 2, 16, 16), None, 5.0, torch.float16),
        ((4, 2, 16, 16), 12, None, torch.float16),
        ((4, 2, 16, 16), 550, 5.0, torch.float32),
        ((6, 3, 24, 40), None, None, torch.float32),  # neither size is a power of two
    ],
)
def test_ragged_attention_is_that_of_dense_softmax(
    kernels: Any, heads: tuple[int, ...], window: int | None, softcap: float | None, num_splits: int, dtype: torch.dtype
) -> None:
    num_heads, num_groups, key_dim, value_dim = heads
    block_size, num_rows = 16, sum(queries for queries, _ in SEQUENCES)
    torch.manual_seed(0)
    blocks = list(range(sum(-(-keys // block_size) for _, keys in SEQUENCES)))
    random.Random(0).shuffle(blocks)
    key_cache = torch.randn(len(blocks) * block_size, num_groups, key_dim).to(dtype)
    value_cache = torch.randn(len(blocks) * block_size, num_groups, value_dim).to(dtype)
    new_keys, new_values = torch.randn(num_rows, num_groups, key_dim), torch.randn(num_rows, num_groups, value_dim)
    query = torch.randn(num_rows, num_heads, key_dim).to(dtype).transpose(0, 1)
    tables = torch.zeros(len(SEQUENCES), 70, dtype=torch.int64)
    items, new_slots, all_slots, row = [], [], [], 0
    for index, (num_queries, num_keys) in enumerate(SEQUENCES):
        mine = [blocks.pop() for _ in range(-(-num_keys // block_size))]
        tables[index, : len(mine)] = torch.tensor(mine)
        slots = [mine[at // block_size] * block_size + at % block_size for at in range(num_keys)]
        items.append([index, row, num_queries, num_keys])
        new_slots += slots[-num_queries:]
        all_slots.append(slots)
        row += num_queries
    items.append([0, 0, 0, 0])  # padding
    kernels.write_paged(
        new_keys.to(dtype).transpose(0, 1), new_values.to(dtype).transpose(0, 1), torch.tensor(new_slots), key_cache,
        value_cache,
    )  # fmt: skip
    assert torch.equal(key_cache[new_slots], new_keys.to(dtype))
    assert torch.equal(value_cache[new_slots], new_values.to(dtype))

    out = torch.full((num_rows, num_heads, value_dim), float("nan"), dtype=dtype)
    kernels.attend_paged(
        query,
        key_cache,
        value_cache,
        torch.tensor(items),
        tables,
        out,
        block_size=block_size,
        max_num_rows=5,
        num_splits=num_splits,
        scaling=key_dim**-0.5,
        window=window,
        softcap=softcap,
    )
    tolerance = 1e-6 if dtype is torch.float32 else 1e-3
    for (_, first, num_queries, _), slots in zip(items, all_slots, strict=False):
        rows = slice(first, first + num_queries)
        want = dense(query[:, rows], key_cache[slots], value_cache[slots], window, softcap)
        assert float((out[rows] - want).norm() / want.norm()) < tolerance


def test_padding_stores_nothing(kernels: Any) -> None:
    caches = [torch.zeros(8, 2, 16), torch.zeros(8, 2, 16)]
    kernels.write_paged(torch.ones(2, 2, 16), torch.ones(2, 2, 16), torch.tensor([-1, 3]), *caches)
    for cache in caches:
        assert cache.sum(dim=(1, 2)).tolist() == [0, 0, 0, 32, 0, 0, 0, 0]


@pytest.fixture
def kernel_engine(kernels: Any) -> Callable[[str, int], Engine]:
    """Makes engines over tiny models whose steps go through the kernels."""
    from actors.engine.kernel_runner import KernelRunner

    def make(architecture: str, num_blocks: int) -> Engine:
        loaded = tiny_loaded(architecture)
        layers = probe_layers(loaded)

        def build(blocks: int, size: int) -> Any:
            return KernelRunner(loaded, KVCache(layers, blocks, size), 256, has_graphs=False)

        check_paged(loaded, build)
        engine = Engine(loaded, EngineConfig(block_size=4, num_blocks=num_blocks))
        engine._runner = build(num_blocks, 4)
        return engine

    return make


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_an_engine_over_the_kernels_gives_generates_tokens(
    kernel_engine: Callable[[str, int], Engine], architecture: str
) -> None:
    prompts = ragged_prompts(3)
    want = {f"r{i}": generate(architecture, p, 4, eos_token_id=EOS) for i, p in enumerate(prompts)}
    engine = kernel_engine(architecture, 24)
    params = GenerationParams(max_new_tokens=4, eos_token_id=(EOS,))
    assert tokens(run(engine, requests(prompts, params), noisy_drafter(want, prompts))) == want


def test_a_wrong_cache_is_found_out(kernels: Any) -> None:
    from actors.engine.kernel_runner import KernelRunner

    loaded = tiny_loaded("llama")
    layers = probe_layers(loaded)

    class Forgetful(KVCache):
        def tensors(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
            keys, values = super().tensors(layer)
            return keys.clone(), values

    with pytest.raises(UnsupportedModelError, match="off by"):
        check_paged(
            loaded,
            lambda blocks, size: KernelRunner(loaded, Forgetful(layers, blocks, size), 64, has_graphs=False),
        )


@pytest.mark.parametrize(("architecture", "num_kinds"), [("llama", 1), ("gemma2", 2)])
def test_one_compilation_serves_all_layers_of_a_kind_and_any_number_of_tokens(
    kernels: Any, architecture: str, num_kinds: int
) -> None:
    from actors.engine.kernel_runner import KernelRunner

    loaded = tiny_loaded(architecture)
    cache = KVCache(probe_layers(loaded), 5, 4)
    compiled = []

    def backend(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        compiled.append(module)
        return module

    # Sizes that are equal in the first call are taken for one: 24 tokens are unlike any width of the model.
    spans = [[Span("a", range(5, 5 + count), 0, ((0, 5),), count)] for count in (20, 1)]
    plain = KernelRunner(loaded, cache, 64, has_graphs=False)
    want = [plain.forward(batch).clone() for batch in spans]
    torch.compiler.reset()
    layers = CompiledLayers(loaded.model, backend)
    runner = KernelRunner(loaded, cache, 64, has_graphs=False, layers=layers)
    for batch, logits in zip(spans, want, strict=True):
        assert torch.equal(runner.forward(batch), logits)
    assert len(layers) > len(compiled) == num_kinds
    generate(architecture, [5, 6, 7], 2)  # transformers' own has the layers as they are
    assert len(compiled) == num_kinds


def test_the_noise_kernel_gives_torchs_noise(kernels: Any) -> None:
    from actors.engine.kernel_noise import can_compile, gumbel_by_kernel
    from actors.engine.noise import gumbel_noise

    seeds, positions = torch.tensor([0, 5, (1 << 62) + 3]), torch.tensor([0, 17, (1 << 33) + 1])
    beams = torch.tensor([0, 1, 2])
    largest = 1.0 - 2.0**-24
    got = gumbel_by_kernel(seeds, positions, beams, 1031, largest)
    assert torch.allclose(got, gumbel_noise(seeds, positions, 1031, beams), atol=2e-5)
    assert can_compile(torch.device("cpu"), largest)
    assert not can_compile(torch.device("cpu"), 0.5)  # other noise is found out


def test_where_kernels_cannot_be_used_there_is_another_way(kernels: Any, caplog: pytest.LogCaptureFixture) -> None:
    loaded = tiny_loaded("llama")
    cache = KVCache(probe_layers(loaded), 8, 4)
    config = EngineConfig(block_size=4, num_blocks=8, compile_layers=False)  # steps cannot be captured without a GPU
    assert kernel_runner(loaded, config, cache) is None
    assert "attention runs by torch's own operations" in caplog.text
    assert generate("llama", [5, 6, 7], 2)
