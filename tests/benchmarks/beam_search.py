"""Four beam searches side by side: the engine against transformers' own, on the same weights in one process."""

import itertools
from typing import Any

import torch

from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from actors.engine.params import GenerationParams
from actors.engine.request import Beam, Request
from tests.benchmarks import workload
from tests.benchmarks.measure import Report, interleave, timed

BATCH, NUM_BEAMS = 4, 4
PROMPT_LENGTHS = (64, 192)
NUM_NEW = 64

_numbers = itertools.count()


def run(repeats: int) -> Report:
    """Measure and report tokens a second of the sequences that are returned, prefill included."""
    torch.set_num_threads(workload.NUM_THREADS)
    prompts = workload.ragged_prompts(BATCH, *PROMPT_LENGTHS, seed=4)
    engine = Engine(workload.target(), EngineConfig(num_blocks=512, prefix_cache=False))
    model: Any = workload.transformers_model("target")
    model.set_attn_implementation("sdpa")

    def ours() -> list[list[int]]:
        names = [f"q{next(_numbers)}" for _ in prompts]
        params = GenerationParams(max_new_tokens=NUM_NEW, num_beams=NUM_BEAMS)
        for name, prompt in zip(names, prompts, strict=True):
            engine.add(Request(request_id=name, prompt_token_ids=tuple(prompt), params=params))
        found: dict[str, tuple[Beam, ...]] = {}
        while engine.has_work():
            found |= {delta.request_id: delta.beams for delta in engine.step() if delta.beams is not None}
        return [list(found[name][0].token_ids) for name in names]

    def theirs() -> list[list[int]]:
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(BATCH, longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=NUM_NEW,
            num_beams=NUM_BEAMS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        found: list[list[int]] = out[:, longest:].tolist()
        return found

    first, second = ours(), theirs()
    assert {len(ids) for ids in (*first, *second)} == {NUM_NEW}
    report = Report(
        name="beam_search",
        what=f"synthetic 200M NF4, {BATCH} beam searches of {NUM_BEAMS} beams, prompts of {PROMPT_LENGTHS[0]} to "
        f"{PROMPT_LENGTHS[1]} ids, {NUM_NEW} new, tokens/s of what is returned, prefill included",
        settings={
            "prompt_lengths": [len(prompt) for prompt in prompts],
            "threads": workload.NUM_THREADS,
            "num_equal": sum(a == b for a, b in zip(first, second, strict=True)),
        },
    )
    report.samples = interleave(
        {
            "slipstream engine": timed(lambda: sum(map(len, ours()))),
            "transformers generate": timed(lambda: sum(map(len, theirs()))),
        },
        unit="tok/s",
        repeats=repeats,
        warm_ups=0,  # each was run once above
    )
    report.ratio("over transformers", "slipstream engine", "transformers generate", 1.0, 2.0)
    return report
