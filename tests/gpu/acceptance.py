"""How often a draft is right about its target, and the damping at which it is so as often as wanted."""

import math
from typing import Any

import torch
from transformers import LlamaForCausalLM

from tests.gpu.random_models import set_damping

NUM_PROMPT_TOKENS = 32


def measure_agreement(target: LlamaForCausalLM, draft: LlamaForCausalLM, num_tokens: int, *, seed: int = 0) -> float:
    """The share of positions of a text of the draft's at which both choose the same id.

    The text is ``num_tokens`` long behind a random prompt. That both go on from the same text at each position is how
    a draft is checked, so that the share is the chance that a drafted token is right where those before it are.
    """
    ids = draft_text(draft, num_tokens, seed)
    return float(_choices(target, ids).eq(_choices(draft, ids)).float().mean())


def calibrate(
    target: LlamaForCausalLM, draft: LlamaForCausalLM, aim: float, num_tokens: int, *, num_tries: int = 9
) -> tuple[float, float]:
    """Set the damping of the target's layers beyond the draft's so that they agree at about ``aim``.

    Bisects the logarithm of the damping; the draft's text is made once, since it does not depend on it. Returns the
    damping and the agreement.
    """
    from_layer = draft.config.num_hidden_layers
    ids = draft_text(draft, num_tokens)
    drafted = _choices(draft, ids)
    low, high = math.log(1e-4), math.log(1.0)
    tried: list[tuple[float, float, float]] = []
    for _ in range(num_tries):
        damping = math.exp((low + high) / 2)
        set_damping(target, from_layer, damping)
        agreement = float(_choices(target, ids).eq(drafted).float().mean())
        tried.append((abs(agreement - aim), damping, agreement))
        if agreement > aim:
            low = math.log(damping)
        else:
            high = math.log(damping)
    _, damping, agreement = min(tried)
    set_damping(target, from_layer, damping)
    return damping, agreement


def draft_text(draft: LlamaForCausalLM, num_tokens: int, seed: int = 0) -> torch.Tensor:
    """Ids (1, NUM_PROMPT_TOKENS + num_tokens): a random prompt and the draft's greedy continuation."""
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(1, draft.config.vocab_size, (1, NUM_PROMPT_TOKENS), generator=generator).to(draft.device)
    model: Any = draft
    with torch.inference_mode():
        ids: torch.Tensor = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=num_tokens, do_sample=False
        )
    return ids


def _choices(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """The greedy choice (num_tokens,) behind each id from the prompt's last on."""
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=ids.shape[1] - NUM_PROMPT_TOKENS + 1).logits
    choices: torch.Tensor = logits[0].argmax(-1)
    return choices[:-1]
