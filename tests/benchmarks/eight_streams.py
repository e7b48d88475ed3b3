"""Eight streams with drafts through the whole cluster, over the better of two ways to do without them.

Those are transformers' padded ``generate``, and the cluster's own plain decoding.
"""

from typing import Any

import torch
from transformers import GenerationConfig

from tests.benchmarks import pairs, workload
from tests.benchmarks.measure import Bar, Report, interleave, timed

NUM_STREAMS = 8
PROMPT_LENGTHS = (16, 128)
NUM_NEW_TOKENS = 96
MUST, AIM = 1.2, 1.8


def run(repeats: int) -> Report:
    """Measure and report tokens a second of all streams, prefill included."""
    torch.set_num_threads(workload.NUM_THREADS)
    prompts = pairs.synthetic_prompts(NUM_STREAMS, *PROMPT_LENGTHS, seed=2)
    requests = pairs.greedy(prompts, NUM_NEW_TOKENS)
    model: Any = workload.transformers_model("target")
    model.set_attn_implementation("sdpa")
    report = Report(
        name="eight_streams",
        what="synthetic 200M NF4 pair, 8 greedy streams, prompts of 16 to 128 ids, 96 new, tokens/s with prefill",
        settings={"prompt_lengths": [len(prompt) for prompt in prompts], "threads_per_actor": workload.NUM_THREADS},
    )
    with pairs.running(pairs.synthetic()) as runner:

        def ours(k: int | None) -> int:
            return sum(len(run.token_ids) for run in runner.run(requests(k), NUM_STREAMS))

        before = runner.settled_stats()
        report.samples = interleave(
            {
                "slipstream, adaptive k": timed(lambda: ours(None)),
                "slipstream, no draft": timed(lambda: ours(0)),
                "transformers padded": timed(lambda: padded(model, prompts)),
            },
            unit="tok/s",
            repeats=repeats,
        )
        after = runner.settled_stats()
    drafted = after.num_draft_tokens - before.num_draft_tokens
    report.settings["drafted"] = drafted
    accepted = after.num_accepted_tokens - before.num_accepted_tokens
    report.settings["accepted_over_drafted"] = accepted / max(1, drafted)
    medians = {name: found.median for name, found in report.samples.items()}
    best = max(medians["slipstream, no draft"], medians["transformers padded"])
    report.bars.append(Bar("over the better without drafts", medians["slipstream, adaptive k"] / best, MUST, AIM))
    report.ratio("over our own plain decoding", "slipstream, adaptive k", "slipstream, no draft", None)
    report.ratio("over padded generate", "slipstream, adaptive k", "transformers padded", None)
    return report


def padded(model: Any, prompts: list[list[int]]) -> int:
    """Run transformers' ``generate`` on all prompts, padded on the left; new tokens."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    config = GenerationConfig(max_new_tokens=NUM_NEW_TOKENS, do_sample=False, pad_token_id=0)
    out = model.generate(ids, attention_mask=mask, generation_config=config)
    return int((out.shape[1] - longest) * len(prompts))
