"""Checking drafted ids: which positions to decide, and how many of the decisions to keep (DESIGN, rule 2)."""

import math
from collections.abc import Sequence as Seq

from actors.engine.errors import GenerationError
from actors.engine.params import GenerationParams
from actors.engine.request import FinishReason, TokenLogprobs
from actors.engine.sampler import SampleRow
from actors.engine.scheduled import Scheduled
from actors.engine.sequence import Sequence


def sample_rows(item: Scheduled) -> list[SampleRow]:
    """The positions of one scheduled sequence that are to be decided, each with the ids before it.

    With k drafts these are k + 1: one behind the known ids, one behind each draft.
    """
    sequence = item.sequence
    if item.num_samples == 0:
        return []
    prefix = [*sequence.token_ids, *sequence.drafts] if sequence.drafts else sequence.token_ids
    is_ranked = sequence.second_choices is not None
    return [
        SampleRow(sequence.sampler, prefix, sequence.num_tokens + offset, is_ranked)
        for offset in range(item.num_samples)
    ]


def accept(sequence: Sequence, token_ids: Seq[int], now: float) -> tuple[int, FinishReason | None]:
    """Append the model's own ids to a sequence, up to the first that differs from its draft, or the end.

    Args:
        sequence: with k drafts, which are used up.
        token_ids: the k + 1 ids decided, each right if the drafts before it are.
        now: seconds, for ``max_time``.

    Returns:
        How many drafts were right, and why the sequence ends if it does.

    Raises:
        GenerationError: a stopping criterion failed over the first of the ids, which is not appended then.
    """
    drafts, sequence.drafts = sequence.drafts, []
    num_accepted = 0
    for position, token in enumerate(token_ids):
        sequence.token_ids.append(token)
        try:
            reason = sequence.stopping.check(sequence.token_ids, sequence.num_tokens, now)
        except GenerationError:
            sequence.token_ids.pop()
            if position == 0:
                raise
            return num_accepted, None  # what was right before is emitted; the sequence fails at its next token
        is_right = position < len(drafts) and drafts[position] == token
        num_accepted += is_right
        if reason is not None or not is_right:
            return num_accepted, reason
    return num_accepted, None


def is_over(sequence: Sequence, now: float) -> bool:
    """Whether a draft sequence has come to its end; also where its criteria fail to say so."""
    try:
        return sequence.stopping.check(sequence.token_ids, sequence.num_tokens, now) is not None
    except GenerationError:
        return True


def num_decided(num_drafts: int, num_accepted: int, num_new_tokens: int) -> int:
    """Of the drafts of one check, how many count as checked.

    All do where one was refused; where the sequence ended first, or a row could not be decided, those behind that place
    were neither right nor wrong.
    """
    is_refused = num_accepted < num_new_tokens <= num_drafts
    return num_drafts if is_refused else min(num_drafts, num_new_tokens)


def is_unsure(params: GenerationParams, logprobs: Seq[TokenLogprobs | None]) -> bool:
    """Whether a draft gave its newest token too small a probability to go on from it."""
    threshold, newest = params.assistant_confidence_threshold, logprobs[-1]
    return threshold > 0.0 and newest is not None and math.exp(newest.logprob) < threshold
