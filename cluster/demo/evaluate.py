"""Measure the pair as it will run: weights in NF4, prompts from prose that was held out.

``python -m cluster.demo.evaluate`` prints the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from cluster.demo import DRAFT_PATH, HELD_OUT_PATH, TARGET_PATH
from cluster.demo.acceptance import Acceptance, load, measure_acceptance
from cluster.demo.pretrain import stream_loss

SEPARATOR = "\n***\n"
"""Between the passages of a held-out file."""


@dataclass(frozen=True)
class Rates:
    """Acceptance in one setting.

    Attributes:
        per_token: Accepted / positions checked.
        per_drafted: Accepted / drafted, as vLLM counts.
        tokens_per_round: Tokens that a round of propose and verify emits.
        num_checked: Size of the sample.
    """

    per_token: float
    per_drafted: float
    tokens_per_round: float
    num_checked: int

    @classmethod
    def of(cls, counts: Acceptance) -> Rates:
        """Return the rates of some counts."""
        return cls(counts.per_token, counts.per_drafted, counts.tokens_per_round, counts.num_checked)


@dataclass(frozen=True)
class Report:
    """Figures of a pair; losses in nats on held-out prose, acceptance at draft length ``k``."""

    quantization: str
    k: int
    target_parameters: int
    draft_parameters: int
    target_loss_per_token: float
    target_loss_per_byte: float
    draft_loss_per_token: float
    held_out_bytes: int
    greedy: Rates
    sampled: Rates
    sampled_08: Rates


def read_passages(path: Path = HELD_OUT_PATH) -> list[str]:
    """Return the passages of a held-out file."""
    return [passage.strip() for passage in path.read_text(encoding="utf-8").split(SEPARATOR) if passage.strip()]


def prompts_of(passages: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int = 64) -> Tensor:
    """Return the first tokens of each passage that is long enough, shape (rows, length).

    Raises:
        ValueError: If no passage is.
    """
    encoded = [tokenizer(passage, verbose=False)["input_ids"] for passage in passages]
    rows = [ids[:length] for ids in encoded if len(ids) >= length]
    if not rows:
        raise ValueError(f"no passage has {length} tokens")
    return torch.tensor(rows)


def count_parameters(model: PreTrainedModel) -> int:
    """Return the number of weights of a model that is not quantized; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def evaluate(
    target_path: Path = TARGET_PATH,
    draft_path: Path = DRAFT_PATH,
    passages: Sequence[str] | None = None,
    quantization: str = "nf4",
    k: int = 4,
    num_tokens: int = 128,
    seeds: Sequence[int] = (0,),
    dtype: torch.dtype = torch.bfloat16,
) -> Report:
    """Measure a pair.

    Args:
        target_path: Folder of the target, with tokenizer.
        draft_path: Folder of the draft.
        passages: Held-out prose; default: the package's file.
        quantization: Of both models, ``nf4`` or ``none``.
        k: Draft length.
        num_tokens: Tokens to write after each prompt.
        seeds: One sampled run is made for each.
        dtype: Of the arithmetic.
    """
    texts = list(passages) if passages is not None else read_passages()
    tokenizer = AutoTokenizer.from_pretrained(target_path)
    target, draft = (load(path, quantization, dtype) for path in (target_path, draft_path))
    prompts = prompts_of(texts, tokenizer)
    stream = torch.tensor([token for text in texts for token in (0, *tokenizer(text, verbose=False)["input_ids"])])
    num_bytes = sum(len(text.encode()) for text in texts)

    def rates(temperature: float, of: Sequence[int]) -> Rates:
        runs = [measure_acceptance(target, draft, prompts, k, num_tokens, temperature, seed) for seed in of]
        return Rates.of(sum(runs, start=Acceptance(0, 0, 0, 0)))

    loss = stream_loss(target, stream)
    return Report(
        quantization=quantization,
        k=k,
        target_parameters=count_parameters(load(target_path, "none")),
        draft_parameters=count_parameters(load(draft_path, "none")),
        target_loss_per_token=loss,
        target_loss_per_byte=loss * (len(stream) - 1) / num_bytes,
        draft_loss_per_token=stream_loss(draft, stream),
        held_out_bytes=num_bytes,
        greedy=rates(0.0, (0,)),
        sampled=rates(1.0, seeds),
        sampled_08=rates(0.8, seeds),
    )


def main() -> None:
    """Measure the shipped pair and write the report to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=TARGET_PATH)
    parser.add_argument("--draft", type=Path, default=DRAFT_PATH)
    parser.add_argument("--quantization", choices=("nf4", "none"), default="nf4")
    parser.add_argument("-k", type=int, default=4)
    parser.add_argument("--num-tokens", type=int, default=128)
    parser.add_argument("--num-seeds", type=int, default=4)
    options = parser.parse_args()
    report = evaluate(
        options.target,
        options.draft,
        quantization=options.quantization,
        k=options.k,
        num_tokens=options.num_tokens,
        seeds=range(options.num_seeds),
    )
    sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")


if __name__ == "__main__":
    main()
