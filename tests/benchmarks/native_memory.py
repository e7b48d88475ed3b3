"""What a caller's process grows by for tensors that it asked for and has not touched."""

import gc
from typing import Any

import psutil
import torch

from cluster.model import ClusterModel
from tests.benchmarks.measure import Bar, Report, sample

ROWS = 16
LENGTHS = (64, 256, 900)  # new tokens
FIELDS = ("hidden_states", "logits")
MUST = 10.0


def run(repeats: int) -> Report:
    """Ask the embedded target for the hidden states and logits of ever longer runs; megabytes of this process."""
    report = Report(
        name="native_memory",
        what=f"embedded target NF4, {ROWS} rows: growth of the caller's memory by hidden states and logits, MiB",
        settings={"rows": ROWS, "max_new_tokens": LENGTHS, "fields": FIELDS},
    )
    with ClusterModel.from_pretrained("demo", draft_replicas=0) as model:
        ids = model.tokenizer("It was a dark night, and", return_tensors="pt").input_ids.repeat(ROWS, 1)
        _generate(model, ids, LENGTHS[0])  # warm-up: whatever a first call brings into the process
        for length in LENGTHS:
            untouched, touched, sizes = [], [], []
            for _ in range(repeats):
                before = _resident()
                output = _generate(model, ids, length)
                untouched.append(_resident() - before)
                sizes.append(sum(_size(output[name]) for name in FIELDS))
                touched.append(_resident() - before)
                del output
            report.samples[f"{length} tokens, untouched"] = sample("MiB", untouched)
            report.samples[f"{length} tokens, touched"] = sample("MiB", touched)
            report.samples[f"{length} tokens, their size"] = sample("MiB", sizes)
    longest = LENGTHS[-1]
    size = report.samples[f"{longest} tokens, their size"].median
    growth = max(report.samples[f"{longest} tokens, untouched"].median, 1.0)
    report.bars.append(Bar(f"size over growth while untouched, {longest} tokens", size / growth, MUST))
    return report


def _generate(model: ClusterModel, ids: torch.Tensor, length: int) -> Any:
    wishes: dict[str, Any] = dict.fromkeys(("output_hidden_states", "output_logits", "return_dict_in_generate"), True)
    return model.generate(ids, do_sample=False, max_new_tokens=length, eos_token_id=None, use_cache=True, **wishes)


def _resident() -> float:
    """MiB of this process, what it shares with the object store included."""
    gc.collect()
    return float(psutil.Process().memory_info().rss) / 2**20


def _size(value: Any) -> float:
    """MiB of the tensors in nested tuples."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size() / 2**20
    return sum(map(_size, value))
