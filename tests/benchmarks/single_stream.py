"""One stream through the whole cluster, target and draft as Ray actors, against transformers' own assisted generation.

Every contender has all cores: at one stream target and draft take turns, so each actor runs with as many threads as
transformers does in its one process.
"""

import itertools
from typing import Any

import torch
from transformers import GenerationConfig

from actors.config import RouterConfig, WorkerConfig
from actors.engine.config import EngineConfig
from cluster.config import ClusterConfig, PoolConfig
from cluster.model import ClusterModel
from tests.benchmarks import workload
from tests.benchmarks.measure import Report, interleave, timed

PROMPT_LENGTH = 64
NUM_NEW_TOKENS = 192
ASSISTED_SETTINGS = [(k, schedule) for k in (2, 3, 4, 6) for schedule in ("constant", "heuristic")]


def config() -> ClusterConfig:
    """The synthetic pair as a cluster of one target and one draft."""

    def pool(path: object) -> PoolConfig:
        return PoolConfig(
            worker=WorkerConfig(
                model=workload.model_config(path),
                engine=EngineConfig(num_blocks=512, prefix_cache=False),
                num_threads=workload.NUM_THREADS,
            )
        )

    return ClusterConfig(
        name="synthetic",
        target=pool(workload.pair().target_path),
        draft=pool(workload.pair().draft_path),
        router=RouterConfig(draft_timeout=5.0),
    )


def run(repeats: int) -> Report:
    """Measure and report tokens a second of one greedy stream."""
    torch.set_num_threads(workload.NUM_THREADS)
    prompts = itertools.cycle(workload.ragged_prompts(8, PROMPT_LENGTH, PROMPT_LENGTH, seed=1))
    model: Any = workload.transformers_model("target")
    assistant: Any = workload.transformers_model("draft")
    report = Report(
        name="single_stream",
        what="synthetic 200M NF4 pair, one greedy stream, 64 prompt ids, 192 new, tokens/s",
        settings={"threads_per_actor": workload.NUM_THREADS, "max_new_tokens": NUM_NEW_TOKENS},
    )
    with ClusterModel.from_config(config()) as cluster:

        def ours(**kwargs: Any) -> int:
            ids = torch.tensor([next(prompts)])
            out: Any = cluster.generate(ids, max_new_tokens=NUM_NEW_TOKENS, do_sample=False, **kwargs)
            return int(out.shape[1] - ids.shape[1])

        def plain() -> int:
            return theirs(None)

        def theirs(setting: tuple[int, str] | None) -> int:
            ids = torch.tensor([next(prompts)])
            extra: dict[str, Any] = {}
            if setting is not None:
                assistant.generation_config.num_assistant_tokens = setting[0]
                assistant.generation_config.num_assistant_tokens_schedule = setting[1]
                assistant.generation_config.assistant_confidence_threshold = 0.0
                extra = {"assistant_model": assistant}
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=GenerationConfig(max_new_tokens=NUM_NEW_TOKENS, do_sample=False, pad_token_id=0),
                **extra,
            )
            return int(out.shape[1] - ids.shape[1])

        theirs(None)
        sweep = interleave(
            {f"{k} {s}": timed(lambda k=k, s=s: theirs((k, s))) for k, s in ASSISTED_SETTINGS},  # type: ignore[misc]
            unit="tok/s",
            repeats=1,
        )
        best = max(ASSISTED_SETTINGS, key=lambda setting: sweep[f"{setting[0]} {setting[1]}"].median)
        report.settings["assisted_sweep"] = {name: found.median for name, found in sweep.items()}
        report.settings["assisted_best"] = best
        before = cluster.stats()
        report.samples = interleave(
            {
                "slipstream, adaptive k": timed(ours),
                "slipstream, k = 3": timed(lambda: ours(num_assistant_tokens=3)),
                "slipstream, no draft": timed(lambda: ours(num_assistant_tokens=0)),
                "transformers assisted, best": timed(lambda: theirs(best)),
                "transformers plain": timed(plain),
            },
            unit="tok/s",
            repeats=repeats,
        )
        after = cluster.stats()
    drafted = after.num_draft_tokens - before.num_draft_tokens
    per_position = [
        now - was
        for now, was in itertools.zip_longest(
            after.num_accepted_tokens_per_pos, before.num_accepted_tokens_per_pos, fillvalue=0
        )
    ]
    drafts = after.num_drafts - before.num_drafts
    report.settings["accepted_over_drafted"] = (after.num_accepted_tokens - before.num_accepted_tokens) / drafted
    report.settings["acceptance_at_first_position"] = per_position[0] / drafts
    report.ratio("over transformers assisted", "slipstream, adaptive k", "transformers assisted, best", 1.2)
    report.ratio("over transformers plain", "slipstream, adaptive k", "transformers plain", 1.2)
    report.ratio("over our own plain decoding", "slipstream, adaptive k", "slipstream, no draft", None)
    return report
