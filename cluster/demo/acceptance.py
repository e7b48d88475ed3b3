"""How often a draft guesses its target's token, under the acceptance rule of the cluster.

Target and draft choose the token at a position from their own logits and the same Gumbel noise (or none: greedy), so
what the target writes does not depend on the draft, and the draft's guess at a position depends only on the text
before it. Hence a run with any draft length can be counted from one array: whether the draft, reading the target's
text, would have chosen each of its tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Acceptance:
    """Counts over rounds of assisted generation.

    Attributes:
        num_drafted: Tokens proposed, k a round.
        num_checked: Positions at which draft and target were compared: up to the first disagreement of a round.
        num_accepted: Positions at which they agreed.
        num_rounds: Rounds.
    """

    num_drafted: int
    num_checked: int
    num_accepted: int
    num_rounds: int

    def __add__(self, other: Acceptance) -> Acceptance:
        return Acceptance(
            self.num_drafted + other.num_drafted,
            self.num_checked + other.num_checked,
            self.num_accepted + other.num_accepted,
            self.num_rounds + other.num_rounds,
        )

    @property
    def per_token(self) -> float:
        """Chance that a proposal is accepted, given that those before it in its round were: accepted / checked."""
        return self.num_accepted / max(1, self.num_checked)

    @property
    def per_drafted(self) -> float:
        """Share of all proposals that were accepted, vLLM's acceptance rate: accepted / drafted."""
        return self.num_accepted / max(1, self.num_drafted)

    @property
    def tokens_per_round(self) -> float:
        """Mean number of tokens that a round emits: the accepted ones and the target's own."""
        return 1 + self.num_accepted / max(1, self.num_rounds)


def count_rounds(agrees: Sequence[bool], k: int) -> Acceptance:
    """Play assisted generation over a text.

    Args:
        agrees: For each token of the target's text, whether the draft would have proposed it.
        k: Tokens that the draft proposes in a round; positive. A last round that the text does not fill is left out.
    """
    if k < 1:
        raise ValueError(f"k is {k}; a round proposes at least one token")
    total, start = Acceptance(0, 0, 0, 0), 0
    while start + k < len(agrees):
        accepted = next((i for i in range(k) if not agrees[start + i]), k)
        total += Acceptance(k, min(accepted + 1, k), accepted, 1)
        start += accepted + 1
    return total


def gumbel(seed: int, position: int, rows: int, vocab: int, device: torch.device | str = "cpu") -> Tensor:
    """Return standard Gumbel noise of shape (rows, vocab), a function of the arguments and of the kind of device."""
    generator = torch.Generator(device).manual_seed((seed * 1_000_003 + position) & (2**63 - 1))
    uniform = torch.rand(rows, vocab, generator=generator, dtype=torch.float64, device=device).clamp_min(1e-300)
    return (-(-uniform.log()).log()).float()


def choose(logits: Tensor, temperature: float, seed: int, position: int) -> Tensor:
    """Return the tokens that a model chooses at one position.

    Args:
        logits: (rows, vocab).
        temperature: 0 is greedy.
        seed: Of the noise.
        position: Absolute position of the token to choose.

    Returns:
        Ids, shape (rows,).
    """
    scores = logits.float()
    if temperature > 0:
        scores = scores / temperature + gumbel(seed, position, logits.size(0), logits.size(1), logits.device)
    return scores.argmax(-1)


@torch.no_grad()
def write(model: PreTrainedModel, prompts: Tensor, num_tokens: int, temperature: float = 0.0, seed: int = 0) -> Tensor:
    """Continue prompts of one length.

    Args:
        model: A causal language model.
        prompts: Ids, shape (rows, prompt), where the model is.
        num_tokens: Tokens to add to each.
        temperature: 0 is greedy.
        seed: Of the noise.

    Returns:
        Ids, shape (rows, prompt + num_tokens). Ends of text are written like any token.
    """
    ids, cache, fresh = prompts, None, prompts
    for _ in range(num_tokens):
        output = model(input_ids=fresh, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        fresh = choose(output.logits[:, -1], temperature, seed, ids.size(1))[:, None]
        ids = torch.cat([ids, fresh], dim=1)
    return ids


@torch.no_grad()
def agreement(draft: PreTrainedModel, ids: Tensor, prompt: int, temperature: float = 0.0, seed: int = 0) -> Tensor:
    """Return where the draft would have written the same, shape (rows, length - prompt), bool.

    Args:
        draft: The model that guesses.
        ids: What ``write`` returned, shape (rows, length).
        prompt: Length of the prompts.
        temperature: As the target's.
        seed: As the target's.
    """
    logits = draft(input_ids=ids[:, :-1], use_cache=False).logits  # (rows, length - 1, vocab)
    columns = [
        choose(logits[:, position - 1], temperature, seed, position) == ids[:, position]
        for position in range(prompt, ids.size(1))
    ]
    return torch.stack(columns, dim=1)


def load(path: str | Path, quantization: str = "nf4", dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """Load a model for measuring.

    Args:
        path: Folder of the model.
        quantization: ``nf4`` or ``none``.
        dtype: Type of what is not quantized, and of arithmetic.
    """
    if quantization not in ("nf4", "none"):
        raise ValueError(f"quantization is {quantization!r}; known are 'nf4' and 'none'")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    more = {"quantization_config": config} if quantization == "nf4" else {}
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **more)
    model.eval()
    return model


def measure_acceptance(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    prompts: Tensor,
    k: int = 4,
    num_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
) -> Acceptance:
    """Let a target continue prompts and count how many of a draft's proposals it would take.

    Args:
        target: The model that writes.
        draft: The model that proposes; same vocabulary.
        prompts: Ids, shape (rows, prompt).
        k: Tokens proposed in a round.
        num_tokens: Tokens to write for each prompt.
        temperature: 0 is greedy, else both sample with shared noise.
        seed: Of the noise.
    """
    ids = write(target, prompts, num_tokens, temperature, seed)
    agrees = agreement(draft, ids, prompts.size(1), temperature, seed)
    return sum((count_rounds(row.tolist(), k) for row in agrees), start=Acceptance(0, 0, 0, 0))
