"""The engine on CUDA: the tokens of ``generate`` in float32, drafted, captured and preempted. Run by ``make gpu``."""

import copy
from functools import cache

import pytest
import torch

from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from actors.engine.loaded import LoadedModel
from actors.engine.params import GenerationParams
from tests.actors.engine.harness import generate, ragged_prompts, requests, run, tiny_loaded, tokens
from tests.actors.engine.test_exactness import EOS, NUM_NEW, PAGED, noisy_drafter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none")


@cache
def oracle(architecture: str) -> dict[str, list[int]]:
    """New ids of ``generate`` on the CPU, by request."""
    prompts = ragged_prompts(16)
    return {f"r{i}": generate(architecture, p, NUM_NEW, eos_token_id=EOS) for i, p in enumerate(prompts)}


@cache
def on_gpu(architecture: str) -> LoadedModel:
    """The tiny model of the CPU, its copy on the device."""
    on_cpu = tiny_loaded(architecture)
    return LoadedModel(
        model=copy.deepcopy(on_cpu.model).to("cuda"),  # type: ignore[arg-type]
        tokenizer=None,
        generation_config=on_cpu.generation_config,
        num_blocks=256,
        weight_bytes=0,
        kv_bytes_per_token=0,
        layer_devices={0: torch.device("cuda:0")},
    )


def gpu_engine(architecture: str, **config: object) -> Engine:
    """An engine of small blocks over it."""
    settings = {"block_size": 4, "num_blocks": 256, "compile_layers": False, **config}
    return Engine(on_gpu(architecture), EngineConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("num_blocks", [256, 40])
@pytest.mark.parametrize("drafts", ["plain", "drafted"])
@pytest.mark.parametrize("architecture", PAGED)
def test_greedy_tokens_on_cuda_are_those_on_cpu(architecture: str, drafts: str, num_blocks: int) -> None:
    want, prompts = oracle(architecture), ragged_prompts(16)
    params = GenerationParams(max_new_tokens=NUM_NEW, eos_token_id=(EOS,))
    drafter = noisy_drafter(want, prompts) if drafts == "drafted" else None
    engine = gpu_engine(architecture, num_blocks=num_blocks, max_num_seqs=4)
    assert tokens(run(engine, requests(prompts, params), drafter)) == want


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_compiled_layers_give_the_same_tokens(architecture: str) -> None:
    want, prompts = oracle(architecture), ragged_prompts(16)
    params = GenerationParams(max_new_tokens=NUM_NEW, eos_token_id=(EOS,))
    engine = gpu_engine(architecture, max_num_seqs=4, compile_layers=True)
    assert tokens(run(engine, requests(prompts, params), noisy_drafter(want, prompts))) == want


def test_steps_without_graphs_give_the_same_tokens() -> None:
    prompts = ragged_prompts(8)
    params = GenerationParams(max_new_tokens=NUM_NEW, eos_token_id=(EOS,))
    engine = gpu_engine("llama", cuda_graphs=False)
    want = {f"r{i}": oracle("llama")[f"r{i}"] for i in range(8)}
    assert tokens(run(engine, requests(prompts, params))) == want


def test_sampled_tokens_do_not_depend_on_the_crowd_or_on_drafts() -> None:
    prompts = ragged_prompts(8)
    params = [GenerationParams(max_new_tokens=NUM_NEW, do_sample=True, seed=seed) for seed in range(8)]
    crowd = tokens(run(gpu_engine("llama"), requests(prompts, params)))
    drafted = tokens(run(gpu_engine("llama"), requests(prompts, params), noisy_drafter(crowd, prompts)))
    assert drafted == crowd
    alone = requests(prompts, params)[3:4]
    assert tokens(run(gpu_engine("llama"), alone))["r3"] == crowd["r3"]
