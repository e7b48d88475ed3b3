"""The embedded pair, one stream through the cluster, over the better of transformers' plain and assisted generation.

Then the same with a draft that is right half of the time. Speculation must not cost in either case.
"""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig

from cluster.bench.cost_model import acceptance_of
from cluster.bench.measure import Sample
from tests.benchmarks import pairs, workload
from tests.benchmarks.measure import Bar, Report, interleave, timed
from tests.benchmarks.weaker_draft import FOLDER, weaken

NUM_PROMPTS = 4
NUM_NEW_TOKENS = 128
LOWERED = 0.5
FIXED = 3
LENGTHS = (2, 4)  # of transformers' assisted generation
MUST = 1.0


def run(repeats: int) -> Report:
    """Measure and report tokens a second of one greedy stream."""
    torch.set_num_threads(workload.NUM_THREADS)
    prompts = pairs.embedded_prompts(NUM_PROMPTS)
    report = Report(
        name="embedded_stream",
        what="embedded pair NF4, one greedy stream, prose, 128 new, tokens/s with prefill; its draft, and one at 0.5",
        settings={"num_prompts": NUM_PROMPTS, "threads_of_transformers": workload.NUM_THREADS, "lowered_to": LOWERED},
    )
    target = loaded(FOLDER / "target")
    weak = weaken(prompts, LOWERED)
    try:
        for name, draft in (("own draft", None), ("draft at 0.5", weak)):
            compare(report, name, draft, target, prompts, repeats)
    finally:
        shutil.rmtree(weak)
    return report


def loaded(path: Path) -> Any:
    """A model as the cluster has it, for transformers' own generation."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        ),
    )
    return model.eval()


def compare(report: Report, name: str, draft: Path | None, target: Any, prompts: list[list[int]], repeats: int) -> None:
    """Add the samples and bars of one draft."""
    assistant = loaded(draft or FOLDER / "draft")
    counts = [0, 0, 0]
    with pairs.running(pairs.embedded(draft=draft)) as runner:

        def ours(prompt: list[int], k: int | None) -> int:
            (run,) = runner.run(pairs.greedy([prompt], NUM_NEW_TOKENS)(k))
            if k == FIXED:  # an adapted length is 0 wherever drafts are likely to be wrong
                for place, count in enumerate((run.stats.num_accepted_tokens, run.stats.num_drafts, run.num_full)):
                    counts[place] += count
            return len(run.token_ids)

        def over(work: Callable[[list[int]], int]) -> Callable[[], float]:
            """A contender that takes one prompt after the other, as every other one does."""
            turn = itertools.cycle(prompts)
            return timed(lambda: work(next(turn)))

        def theirs(k: int) -> Callable[[], float]:
            return over(lambda prompt: generate(target, assistant, prompt, k))

        assisted = {f"{name}: transformers assisted, k = {k}": theirs(k) for k in LENGTHS}
        samples: dict[str, Sample] = interleave(
            {
                f"{name}: slipstream, adaptive k": over(lambda prompt: ours(prompt, None)),
                f"{name}: slipstream, k = {FIXED}": over(lambda prompt: ours(prompt, FIXED)),
                f"{name}: slipstream, no draft": over(lambda prompt: ours(prompt, 0)),
                f"{name}: transformers plain": theirs(0),
                **assisted,
            },
            unit="tok/s",
            repeats=NUM_PROMPTS * repeats,
            warm_ups=2,
        )
    report.samples |= samples
    report.settings[f"acceptance, {name}"] = acceptance_of(*counts)
    ours_median = samples[f"{name}: slipstream, adaptive k"].median
    best = max(found.median for key, found in samples.items() if "transformers" in key)
    plain = samples[f"{name}: slipstream, no draft"].median
    report.bars.append(Bar(f"{name}: over transformers' better", ours_median / best, MUST))
    report.bars.append(Bar(f"{name}: over our own plain", ours_median / plain, MUST))


def generate(target: Any, assistant: Any, prompt: list[int], k: int) -> int:
    """Run transformers' ``generate``, assisted with ``k`` tokens unless that is 0; new tokens."""
    ids = torch.tensor([prompt])
    extra: dict[str, Any] = {}
    if k:
        assistant.generation_config.num_assistant_tokens = k
        assistant.generation_config.num_assistant_tokens_schedule = "constant"
        assistant.generation_config.assistant_confidence_threshold = 0.0
        extra = {"assistant_model": assistant}
    config = GenerationConfig(
        max_new_tokens=NUM_NEW_TOKENS, min_new_tokens=NUM_NEW_TOKENS, do_sample=False, pad_token_id=0
    )
    out = target.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, **extra)
    return int(out.shape[1] - ids.shape[1])
