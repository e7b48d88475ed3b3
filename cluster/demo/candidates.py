"""Drafts of several shapes for a target that is there already: distilled, measured and kept for comparison.

A candidate is one file of safetensors whose header holds its report. ``cluster.demo.adopt`` ships it.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor
from transformers import LlamaForCausalLM

from cluster.demo.acceptance import Acceptance, measure_acceptance
from cluster.demo.distill import DistillConfig, distill, sample_texts
from cluster.demo.drafts import DRAFT_SHAPES, new_draft
from cluster.demo.evaluate import Rates, count_parameters
from cluster.demo.nf4 import rounded_weights
from cluster.demo.pretrain import ModelShape

logger = logging.getLogger(__name__)

_REPORT = "report"


@dataclass(frozen=True)
class Candidate:
    """What was done for a draft and what came of it.

    Attributes:
        name: Of its shape.
        shape: Its shape.
        distillation: How it was trained; ``steps`` are those that were done.
        parameters: Weights; tied ones count once.
        share: Of the target's weights.
        seconds: Time that the training took.
        device: Kind of device on which all was done.
        rates: Acceptance by temperature, with both models' weights rounded to NF4.
    """

    name: str
    shape: ModelShape
    distillation: DistillConfig
    parameters: int
    share: float
    seconds: float
    device: str
    rates: dict[str, Rates]


def load_target(folder: Path, device: torch.device) -> LlamaForCausalLM:
    """Load a target to be agreed with: float32, not to be trained."""
    target: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    target.to(device)  # type: ignore[arg-type]
    target.eval().requires_grad_(False)
    return target


def as_shipped(draft: LlamaForCausalLM) -> LlamaForCausalLM:
    """Return a copy whose weights have been through bfloat16, as files have them; arithmetic stays float32."""
    copied: LlamaForCausalLM = copy.deepcopy(draft)
    copied.eval()
    for parameter in copied.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return copied


def measure(
    target: LlamaForCausalLM, draft: LlamaForCausalLM, prompts: Tensor, k: int, num_tokens: int, num_seeds: int
) -> dict[str, Rates]:
    """Return acceptance by temperature: 0, 1 and 0.8.

    Args:
        target: With weights of NF4.
        draft: With weights of NF4.
        prompts: Held-out ids, shape (rows, prompt), where the models are.
        k: Draft length.
        num_tokens: Tokens to write after each prompt.
        num_seeds: Runs with a temperature.
    """
    rates: dict[str, Rates] = {}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    for temperature, seeds in ((0.0, 1), (1.0, num_seeds), (0.8, num_seeds)):
        runs = [measure_acceptance(target, draft, prompts, k, num_tokens, temperature, seed) for seed in range(seeds)]
        rates[str(temperature)] = Rates.of(sum(runs, start=Acceptance(0, 0, 0, 0)))
    torch.set_float32_matmul_precision(before)
    return rates


def train_candidates(
    target: LlamaForCausalLM,
    stream: Tensor,
    prompts: Tensor,
    names: Sequence[str],
    config: DistillConfig,
    num_written: int,
    out: Path,
    *,
    batch: int = 144,
    num_tokens: int = 128,
    shapes: dict[str, ModelShape] = DRAFT_SHAPES,
) -> list[Candidate]:
    """Let the target write, then distill, measure and save drafts in turn as ``out/draft-NAME/model.safetensors``.

    Args:
        target: What ``load_target`` returned.
        stream: Training ids, shape (tokens,), where the target is.
        prompts: Held-out ids to measure acceptance on, shape (rows, prompt), there too.
        names: Of the shapes, in order.
        config: The recipe; its time is that of each draft.
        num_written: Texts for the target to write.
        out: Folder for the files.
        batch: Texts written together.
        num_tokens: Tokens to write after each prompt when measuring.
        shapes: What the names stand for.
    """
    candidates = []
    with rounded_weights(target):
        written = sample_texts(target, stream, num_written, config.window, batch=batch)
        for name in names:
            draft = new_draft(target, shapes[name], config.seed)
            started = time.monotonic()
            steps = distill(target, draft, stream, written, config)
            seconds = time.monotonic() - started
            shipped = as_shipped(draft)
            with rounded_weights(shipped):
                rates = measure(target, shipped, prompts, k=4, num_tokens=num_tokens, num_seeds=2)
            parameters = count_parameters(draft)
            done = replace(config, steps=steps)
            share = parameters / count_parameters(target)
            candidate = Candidate(name, shapes[name], done, parameters, share, seconds, target.device.type, rates)
            save_candidate(draft, candidate, out / f"draft-{name}" / "model.safetensors")
            logger.info("%s: %d steps in %.1f s, %s", name, steps, seconds, rates)
            candidates.append(candidate)
    return candidates


def save_candidate(draft: LlamaForCausalLM, candidate: Candidate, path: Path) -> None:
    """Write weights in float32, and the report in the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(draft, str(path), metadata={"format": "pt", _REPORT: json.dumps(asdict(candidate))})


def load_candidate(path: Path) -> tuple[LlamaForCausalLM, Candidate]:
    """Read a candidate.

    Raises:
        ValueError: If the file's header has no report.
    """
    with safe_open(path, framework="pt") as weights:
        header = (weights.metadata() or {}).get(_REPORT)
    if header is None:
        raise ValueError(f"{path}: the header has no {_REPORT!r}; train_candidates writes one")
    report: dict[str, Any] = json.loads(header)
    report["shape"] = ModelShape(**report["shape"])
    report["distillation"] = DistillConfig(**report["distillation"])
    report["rates"] = {temperature: Rates(**rates) for temperature, rates in report["rates"].items()}
    candidate = Candidate(**report)
    draft = LlamaForCausalLM(candidate.shape.config())
    load_model(draft, path)
    return draft, candidate
