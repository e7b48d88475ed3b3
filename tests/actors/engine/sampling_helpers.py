"""What the tests of sampling share: a tiny model to build processors with, rows, and a chi-square test."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from actors.engine.loaded import LoadedModel
from actors.engine.params import GenerationParams
from actors.engine.sampler import SampleRow, SamplerState

VOCAB_SIZE = 61
PROMPT = [5, 9, 5, 3, 17, 9]
EOS = (2, 7)


@lru_cache
def tiny_loaded() -> LoadedModel:
    """A random two-layer Llama with a vocabulary of 61 tokens and spread-out logits."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.4,
    )
    model = LlamaForCausalLM(config).eval()
    return LoadedModel(
        model=model,
        tokenizer=None,
        generation_config=model.generation_config,
        num_blocks=1,
        weight_bytes=1,
        kv_bytes_per_token=1,
    )


def make_row(params: GenerationParams, emitted: Sequence[int] = (), prompt: Sequence[int] = PROMPT) -> SampleRow:
    """The row that decides the token behind prompt and emitted ids."""
    state = SamplerState.build(params, len(prompt), tiny_loaded(), prompt)
    prefix = [*prompt, *emitted]
    return SampleRow(state, prefix, len(prefix))


def chi_square_p(counts: Tensor, probabilities: Tensor) -> float:
    """p-value of Pearson's test that ``counts`` (n,) were drawn from ``probabilities`` (n,).

    Cells that expect fewer than five draws are put together; a draw from an impossible cell gives 0.
    """
    if counts[probabilities == 0].sum() > 0:
        return 0.0
    expected = probabilities.double() * counts.sum()
    is_small = expected < 5
    observed = torch.cat([counts[~is_small].double(), counts[is_small].sum().double().view(1)])
    expected = torch.cat([expected[~is_small], expected[is_small].sum().view(1)])
    observed, expected = observed[expected > 0], expected[expected > 0]
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2, dtype=torch.float64), statistic / 2))
