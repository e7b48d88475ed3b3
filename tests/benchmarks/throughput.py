"""Sixteen ragged streams on one target, plain decoding: the engine against transformers' two ways of batching."""

import itertools
from typing import Any

import torch
from transformers import GenerationConfig

from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from tests.benchmarks import workload
from tests.benchmarks.measure import Report, interleave, timed

_numbers = itertools.count()


def run(repeats: int) -> Report:
    """Measure and report tokens a second, prefill included."""
    torch.set_num_threads(workload.NUM_THREADS)
    prompts = workload.ragged_prompts()
    engine = Engine(workload.target(), EngineConfig(num_blocks=512, prefix_cache=False))
    model: Any = workload.transformers_model("target")
    model.set_attn_implementation("sdpa")
    new = workload.NUM_NEW_TOKENS

    def ours() -> int:
        names = [f"q{next(_numbers)}" for _ in prompts]
        for name, prompt in zip(names, prompts, strict=True):
            params = GenerationParams(max_new_tokens=new)
            engine.add(Request(request_id=name, prompt_token_ids=tuple(prompt), params=params))
        count = 0
        while engine.has_work():
            count += sum(len(delta.token_ids) for delta in engine.step())
        return count

    def padded() -> int:
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        config = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0)
        out = model.generate(ids, attention_mask=mask, generation_config=config)
        return int((out.shape[1] - longest) * len(prompts))

    def batched() -> int:
        config = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=-1)
        out = model.generate_batch(inputs=prompts, generation_config=config, max_new_tokens=new, warmup=False)
        return sum(len(result.generated_tokens) for result in out.values())

    expected = len(prompts) * new
    for contender in (ours, padded, batched):
        count = contender()
        assert count == expected, f"{contender.__name__} made {count} tokens, not {expected}"
    report = Report(
        name="throughput",
        what="synthetic 200M NF4, 16 streams, prompts of 16 to 512 ids, 128 new, plain decoding, tokens/s with prefill",
        settings={"prompt_lengths": [len(p) for p in prompts], "threads": workload.NUM_THREADS},
    )
    report.samples = interleave(
        {"slipstream engine": timed(ours), "generate_batch": timed(batched), "padded generate": timed(padded)},
        unit="tok/s",
        repeats=repeats,
        warm_ups=0,  # each was run once above
    )
    report.ratio("over generate_batch", "slipstream engine", "generate_batch", 4.0, 5.5)
    report.ratio("over padded generate", "slipstream engine", "padded generate", 1.8, 2.7)
    return report
