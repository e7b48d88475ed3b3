"""Log-probabilities of a prompt's own tokens, read off the logits while the prompt is computed.

They are those of the model itself: the log-softmax of its logits, before any processor. The logits of position p say
how probable the prompt's token p + 1 is, so the first token has none.
"""

from collections.abc import Sequence as Seq

import torch

from actors.engine.logprobs import token_logprobs
from actors.engine.scheduled import Scheduled

# A prompt that asks is computed in as many pieces as these bounds make of it: numbers of logits that one forward may
# yield for prompts (256 MiB in float32), and that are normalized at a time.
MAX_NUM_VALUES = 2**26
MAX_NUM_NORMALIZED = 2**22


def max_num_prompt_logits(vocab_size: int) -> int:
    """Rows of logits that one forward may yield for prompts."""
    return max(1, MAX_NUM_VALUES // vocab_size)


def take_prompt_logits(logits: torch.Tensor, plan: Seq[Scheduled]) -> torch.Tensor:
    """Enter what a step's logits say of prompts in their sequences.

    Args:
        logits: (rows, vocab), those of each scheduled sequence in turn, its prompt's first.
        plan: whose they are.

    Returns:
        The rows that are sampled from, (sum of num_samples, vocab).
    """
    if not any(item.num_prompt_logits for item in plan):
        return logits
    others: list[torch.Tensor] = []
    row = 0
    for item in plan:
        stop = row + item.num_prompt_logits
        _enter(logits[row:stop], item)
        row += item.span.num_logits
        others.append(logits[stop:row])
    return torch.cat(others)


def _enter(logits: torch.Tensor, item: Scheduled) -> None:
    """Append to the sequence what ``logits``, (num_prompt_logits, vocab), say of its prompt's next tokens."""
    sequence = item.sequence
    known, num_top = sequence.prompt_logprobs, sequence.params.prompt_logprobs
    if known is None or num_top is None:
        return
    for part in logits.split(max(1, MAX_NUM_NORMALIZED // logits.shape[-1])):
        rows = range(len(part))
        token_ids = sequence.token_ids[len(known) + 1 : len(known) + 1 + len(part)]
        entries = token_logprobs(part.to(torch.float32), token_ids, dict.fromkeys(rows, num_top))
        known.extend(entries[row] for row in rows)
