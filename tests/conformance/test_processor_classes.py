"""Every processor and warper that a ``GenerationConfig`` can ask for: as transformers has it, with drafts on.

Greedy: the ids of ``model.generate``. Sampled: each token is the one that transformers' own processors leave the most
probable once the position's noise is added, so its distribution is theirs by construction.
"""

import ast
import inspect
import textwrap
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, GenerationMixin, SynthIDTextWatermarkingConfig, WatermarkingConfig
from transformers.generation import logits_process

from actors.engine.engine import Engine
from actors.engine.noise import gumbel_noise
from actors.engine.request import Request
from cluster.generation import resolve_params
from tests.conformance.generate_matrix import Pair, prompts
from tests.conformance.pairs import EOS, engine, run, tiny_loaded

PROMPT = (5, 9, 5, 17, 40, 5, 9)
NUM_NEW = 14
SEED = 11

# Each class with fields that build it. What only warps, and only where tokens are drawn, is marked so.
ENGINE: dict[str, dict[str, Any]] = {
    "SequenceBiasLogitsProcessor": {"sequence_bias": [[[40], 6.0], [[9, 41], 5.0], [[8], float("-inf")]]},
    "EncoderRepetitionPenaltyLogitsProcessor": {"encoder_repetition_penalty": 1.6},
    "RepetitionPenaltyLogitsProcessor": {"repetition_penalty": 1.7},
    "NoRepeatNGramLogitsProcessor": {"no_repeat_ngram_size": 1},
    "EncoderNoRepeatNGramLogitsProcessor": {"encoder_no_repeat_ngram_size": 1},
    "NoBadWordsLogitsProcessor": {"bad_words_ids": [[4], [9, 5], [11, 12, 13], *([token] for token in range(60, 120))]},
    "MinLengthLogitsProcessor": {"min_length": 16, "eos_token_id": list(range(2, 120))},
    "MinNewTokensLengthLogitsProcessor": {"min_new_tokens": 9, "eos_token_id": list(range(2, 120))},
    "ForcedBOSTokenLogitsProcessor": {"forced_bos_token_id": 13},
    "ForcedEOSTokenLogitsProcessor": {"forced_eos_token_id": 30},
    "InfNanRemoveLogitsProcessor": {"remove_invalid_values": True},
    "ExponentialDecayLengthPenalty": {"exponential_decay_length_penalty": (3, 1.6)},
    "SuppressTokensLogitsProcessor": {"suppress_tokens": list(range(0, 199, 2))},
    "SuppressTokensAtBeginLogitsProcessor": {"begin_suppress_tokens": list(range(0, 199, 2))},
    "LogitNormalization": {"renormalize_logits": True},
}
WARPERS: dict[str, dict[str, Any]] = {
    "TemperatureLogitsWarper": {"temperature": 0.6},
    "TopHLogitsWarper": {"top_h": 0.5},
    "TopKLogitsWarper": {"top_k": 3},
    "TopPLogitsWarper": {"top_p": 0.7},
    "MinPLogitsWarper": {"min_p": 0.2},
    "TypicalLogitsWarper": {"typical_p": 0.6},
    "EpsilonLogitsWarper": {"epsilon_cutoff": 0.03},
    "EtaLogitsWarper": {"eta_cutoff": 0.05},
}
TOGETHER = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "temperature": 0.8, "top_k": 20, "top_p": 0.9}


def odd_only(batch_id: int, ids: torch.Tensor) -> list[int]:
    """A caller's own rule."""
    return list(range(5, 199, 2))


# What transformers' own code runs in the target.
NATIVE: dict[str, dict[str, Any]] = {
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": {"guidance_scale": 1.5},
    "PrefixConstrainedLogitsProcessor": {"prefix_allowed_tokens_fn": odd_only},
    "WatermarkLogitsProcessor": {"watermarking_config": WatermarkingConfig(bias=4.0)},
    "SynthIDTextWatermarkLogitsProcessor": {
        "watermarking_config": SynthIDTextWatermarkingConfig(ngram_len=3, keys=[7, 11, 13])
    },
}


def classes_built_by(*functions: Any) -> set[str]:
    """Names of the processors that functions construct, read off their source."""
    built = set()
    for function in functions:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found = getattr(logits_process, node.func.id, None)
                if inspect.isclass(found) and issubclass(found, logits_process.LogitsProcessor):
                    built.add(node.func.id)
    return built


def test_no_class_is_left_out() -> None:
    built = classes_built_by(
        GenerationMixin._get_logits_processor,
        WatermarkingConfig.construct_processor,
        SynthIDTextWatermarkingConfig.construct_processor,
    )
    assert len(built) > 20
    assert built == {*ENGINE, *WARPERS, *NATIVE}


@pytest.fixture(scope="module")
def target() -> Engine:
    return engine(has_tokenizer=False)


@pytest.fixture(scope="module")
def draft() -> Engine:
    return engine(is_draft=True, has_tokenizer=False)


def prompt_of(fields: dict[str, Any]) -> tuple[int, ...]:
    """The token behind the first is forced where the prompt is the first alone."""
    return PROMPT[:1] if "forced_bos_token_id" in fields else PROMPT


def emitted(target: Engine, draft: Engine, fields: dict[str, Any]) -> list[int]:
    """What the engine writes with a draft's help."""
    prompt = prompt_of(fields)
    params = resolve_params(
        {}, {"max_new_tokens": NUM_NEW, "eos_token_id": EOS, **fields}, num_prompt_tokens=len(prompt)
    )
    before = target.stats()
    ids, _ = run(target, [Request(request_id="r", prompt_token_ids=prompt, params=params)], draft)["r"]
    after = target.stats()
    assert after.num_draft_tokens > before.num_draft_tokens, "no draft was looked at"
    return ids


def config_of(fields: dict[str, Any], num_prompt: int) -> GenerationConfig:
    """What ``generate`` makes of the fields before it builds processors."""
    config = GenerationConfig(**{"eos_token_id": EOS, "max_length": num_prompt + NUM_NEW, **fields})
    eos = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    vars(config)["_eos_token_tensor"] = torch.tensor(eos)
    return config


@torch.no_grad()
def drawn(fields: dict[str, Any]) -> list[int]:
    """Tokens one by one: transformers' scores, plus the noise of the position."""
    model: Any = tiny_loaded().model
    ids = torch.tensor([prompt_of(fields)])
    num_prompt = ids.shape[1]
    config = config_of(fields, num_prompt)
    processors = model._get_logits_processor(
        generation_config=config, input_ids_seq_length=num_prompt, encoder_input_ids=ids, device="cpu"
    )
    for position in range(num_prompt, num_prompt + NUM_NEW):
        scores = processors(ids, model(ids).logits[:, -1].float())
        noise = gumbel_noise(torch.tensor([SEED]), torch.tensor([position]), scores.shape[-1])
        ids = torch.cat([ids, (scores + noise).argmax(-1, keepdim=True)], dim=-1)
        if ids[0, -1] in vars(config)["_eos_token_tensor"]:
            break
    return [int(token) for token in ids[0, num_prompt:]]


@pytest.mark.parametrize("name", ENGINE)
def test_greedy(target: Engine, draft: Engine, name: str) -> None:
    fields = ENGINE[name]
    prompt = prompt_of(fields)
    model: Any = tiny_loaded().model
    arguments = {"max_new_tokens": NUM_NEW, "pad_token_id": 0, "eos_token_id": EOS, **fields}
    expected = model.generate(torch.tensor([prompt]), do_sample=False, **arguments)
    assert emitted(target, draft, fields) == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("fields", [*ENGINE.values(), *WARPERS.values(), TOGETHER], ids=[*ENGINE, *WARPERS, "together"])
def test_sampled(target: Engine, draft: Engine, fields: dict[str, Any]) -> None:
    asked = {"do_sample": True, "top_k": 0, **fields}
    assert emitted(target, draft, {**asked, "seed": SEED}) == drawn(asked)


@pytest.mark.parametrize("name", [*ENGINE, *WARPERS])
def test_the_class_is_built_and_does_something(name: str) -> None:
    fields = {"do_sample": True, "top_k": 0, **ENGINE.get(name, {}), **WARPERS.get(name, {})}
    ids = torch.tensor([prompt_of(fields)])
    model: Any = tiny_loaded().model
    config = config_of(fields, ids.shape[1])
    config.max_length = ids.shape[1] + 1  # the last token that may come, which some wait for
    if "exponential_decay_length_penalty" in fields:
        ids = torch.tensor([[*PROMPT, 3, 4, 5, 6, 7, 8]])
    processors = model._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=min(ids.shape[1], len(PROMPT)),
        encoder_input_ids=ids,
        device="cpu",
    )
    (found,) = [one for one in processors if type(one).__name__ == name]
    scores = torch.randn(1, 199, generator=torch.Generator().manual_seed(1)) * 2
    scores[0, 3] = torch.nan if name == "InfNanRemoveLogitsProcessor" else 0.0
    assert not torch.equal(found(ids, scores.clone()), scores)


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("name", NATIVE)
def test_what_transformers_runs_itself(decoder: Pair, name: str, do_sample: bool) -> None:
    reference, ours = decoder
    ids, mask = prompts(4)
    arguments: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": do_sample, **NATIVE[name]}
    torch.manual_seed(SEED)
    expected = reference.generate(ids, **arguments)
    found: Any = ours.generate(ids, seed=SEED, **arguments)
    assert found.tolist() == expected.tolist()
