"""Grammars on scores: every token that a row's grammar forbids gets -inf. No loop over the vocabulary."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from actors.engine.errors import GenerationError
from actors.engine.grammar_state import Bits, GrammarState

_MINUS_INF = float("-inf")


class GrammarMask(LogitsProcessor):
    """One sequence's grammar in transformers' list, behind every processor and before the warpers."""

    def __init__(self, state: GrammarState) -> None:
        self._state = state

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (1, vocab), masked for the prefix ``input_ids`` (1, n). Raises as :meth:`GrammarState.legal` does."""
        ids = input_ids[0].tolist()
        legal = self._state.legal(ids, len(ids))
        return scores if legal is None else scores.masked_fill(_forbidden([legal], scores), _MINUS_INF)


def mask_scores(scores: Tensor, prefixes: Mapping[int, tuple[GrammarState, Sequence[int], int]]) -> dict[int, str]:
    """Mask some rows of ``scores`` (rows, vocab) in place.

    Args:
        scores: float32, any device.
        prefixes: maps a row to its grammar and the ids behind which it stands: the first so many of a sequence. The
            rows of one sequence are quickest one behind the other, in order.

    Returns:
        Why a row has no mask, for rows whose grammar cannot say.
    """
    errors: dict[int, str] = {}
    masks: dict[int, Bits] = {}
    for row, (state, ids, num_ids) in prefixes.items():
        try:
            legal = state.legal(ids, num_ids)
        except GenerationError as error:
            errors[row] = str(error)
        else:
            if legal is not None:
                masks[row] = legal
    if masks:
        forbidden = _forbidden(list(masks.values()), scores)
        if len(masks) == scores.shape[0]:
            scores.masked_fill_(forbidden, _MINUS_INF)
        else:
            rows = torch.tensor(list(masks), device=scores.device)
            scores[rows] = scores[rows].masked_fill_(forbidden, _MINUS_INF)
    return errors


def _forbidden(legal: Sequence[Bits], scores: Tensor) -> Tensor:
    """Bits of legal tokens as (rows, vocab) bool on the scores' device, true where a token is forbidden."""
    bits = ~np.stack(legal)
    # On a CPU numpy unpacks some ten times quicker; elsewhere an eighth of the bytes have to travel.
    if scores.device.type == "cpu":
        return unpack_on_host(bits, scores.shape[-1])
    return unpack_on_device(torch.from_numpy(bits).to(scores.device, non_blocking=True), scores.shape[-1])


def unpack_on_host(bits: Bits, vocab_size: int) -> Tensor:
    """Rows of bits (rows, bytes) as (rows, vocab) bool."""
    return torch.from_numpy(np.unpackbits(bits, axis=1, count=vocab_size, bitorder="little").view(np.bool_))


def unpack_on_device(bits: Tensor, vocab_size: int) -> Tensor:
    """The same for uint8 on any device."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits.unsqueeze(-1) >> shifts) & 1).flatten(1)[:, :vocab_size].to(torch.bool)
