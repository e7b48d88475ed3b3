"""The engine on CUDA: the tokens of ``generate`` in float32, drafted and preempted. Run by ``make gpu``."""

import copy

import pytest
import torch

from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from actors.engine.loaded import LoadedModel
from actors.engine.params import GenerationParams
from tests.actors.engine.harness import generate, ragged_prompts, requests, run, tiny_loaded, tokens

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none")


@pytest.mark.parametrize("num_blocks", [256, 40])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "qwen3_moe"])
def test_greedy_tokens_on_cuda_are_those_on_cpu(architecture: str, num_blocks: int) -> None:
    on_cpu = tiny_loaded(architecture)
    model = copy.deepcopy(on_cpu.model).to("cuda")  # type: ignore[arg-type]
    on_gpu = LoadedModel(
        model=model,
        tokenizer=None,
        generation_config=on_cpu.generation_config,
        num_blocks=num_blocks,
        weight_bytes=0,
        kv_bytes_per_token=0,
        layer_devices={0: torch.device("cuda:0")},
    )
    prompts = ragged_prompts(16)
    want = {f"r{i}": generate(architecture, p, 24) for i, p in enumerate(prompts)}
    engine = Engine(on_gpu, EngineConfig(block_size=4, num_blocks=num_blocks))
    assert tokens(run(engine, requests(prompts, GenerationParams(max_new_tokens=24)))) == want
