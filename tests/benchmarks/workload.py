"""The synthetic 200M pair and the prompts that benchmarks share."""

import random
from functools import cache

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.loaded import LoadedModel
from actors.engine.loading import load_model
from cluster.demo.synthetic import SyntheticPair, synthetic_pair

NUM_STREAMS = 16
NUM_NEW_TOKENS = 128
NUM_THREADS = 2
ENGINE = EngineConfig(num_blocks=512, max_num_seqs=64, num_threads=NUM_THREADS)


@cache
def pair() -> SyntheticPair:
    """Paths of the pair, generated once a machine."""
    return synthetic_pair()


def model_config(path: object) -> ModelConfig:
    """NF4 with bfloat16 arithmetic, as every contender has it."""
    return ModelConfig(model=str(path), quantization="nf4", dtype="bfloat16", compute_dtype="bfloat16")


@cache
def target() -> LoadedModel:
    """The target as the engine takes it."""
    return load_model(model_config(pair().target_path), ENGINE)


@cache
def draft() -> LoadedModel:
    """The draft as the engine takes it."""
    return load_model(model_config(pair().draft_path), ENGINE)


@cache
def transformers_model(role: str) -> PreTrainedModel:
    """The same weights in the same quantization for transformers' own generation."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        pair().target_path if role == "target" else pair().draft_path,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        ),
    )
    model.eval()
    return model


def ragged_prompts(count: int = NUM_STREAMS, low: int = 16, high: int = 512, seed: int = 0) -> list[list[int]]:
    """Prompts of ``low`` to ``high`` random ids."""
    source = random.Random(seed)
    vocab = target().vocab_size
    return [[source.randrange(vocab) for _ in range(source.randint(low, high))] for _ in range(count)]
