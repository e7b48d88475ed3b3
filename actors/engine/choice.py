"""The rule that turns scores into tokens: the largest of score plus noise (DESIGN, rule 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from actors.engine.noise import gumbel_noise, gumbel_noise_at

# Noise for chosen tokens costs about four times as much a token: three words of each block are thrown away.
_SPARSE_FRACTION = 0.2


def argmax(scores: Tensor) -> Tensor:
    """First of the largest values of each row, (rows,) int64. On a CPU torch's ``max`` is quicker than ``argmax``."""
    return scores.max(dim=-1).indices


@dataclass(frozen=True)
class NoiseKeys:
    """Whose noise a draft draws with whose vocabulary or positions are not its target's.

    Attributes:
        ids: (vocab,) int64, the target's id for each of its own; ids beyond the target's where there is none.
        num_ids: one more than the largest of them.
        shift: how much further the target has counted.
    """

    ids: Tensor
    num_ids: int
    shift: int = 0

    @classmethod
    def of(cls, noise_ids: Sequence[int], vocab_size: int) -> Self:
        """Take one id for each of the vocabulary. Raises ValueError where there are more or fewer."""
        if len(noise_ids) != vocab_size:
            raise ValueError(f"{vocab_size} ids are needed, one for each of the vocabulary, not {len(noise_ids)}")
        return cls(torch.tensor(noise_ids), 1 + max(noise_ids))


def argmax_with_noise(
    scores: Tensor, seeds: Tensor, positions: Tensor, is_truncated: bool, keys: NoiseKeys | None = None
) -> Tensor:
    """``argmax_v(scores_v + gumbel(seed, position, v))`` of each row: a draw from softmax(scores).

    Args:
        scores: (rows, vocab) float32; tokens that are ruled out have -inf.
        seeds: (rows,) int64.
        positions: (rows,) int64, absolute positions of the tokens.
        is_truncated: whether rows may have few tokens left; then noise is computed for those alone where that pays,
            with the same result.
        keys: whose noise it is, where not the tokens' own. ``positions`` are the target's then.

    Returns:
        (rows,) int64.
    """
    # Counting survivors would make a GPU wait for the host, and noise is cheap there.
    if scores.device.type != "cpu" or not is_truncated:
        return _argmax_of_all(scores, seeds, positions, keys)
    survivors = scores > float("-inf")
    is_sparse = survivors.sum(dim=-1) < _SPARSE_FRACTION * scores.shape[-1]
    dense, sparse = (mask.nonzero().squeeze(-1) for mask in (~is_sparse, is_sparse))
    chosen = torch.empty_like(seeds)
    if dense.numel() > 0:
        chosen[dense] = _argmax_of_all(scores[dense], seeds[dense], positions[dense], keys)
    if sparse.numel() > 0:
        mask = survivors & is_sparse.unsqueeze(-1)
        chosen[sparse] = _argmax_of_survivors(scores, mask, seeds, positions, keys)[sparse]
    return chosen


def _argmax_of_all(scores: Tensor, seeds: Tensor, positions: Tensor, keys: NoiseKeys | None) -> Tensor:
    if keys is not None:
        noise = gumbel_noise(seeds, positions, keys.num_ids)[:, keys.ids.to(scores.device)]  # (rows, vocab)
        return argmax(noise.add_(scores))
    return argmax(gumbel_noise(seeds, positions, scores.shape[-1]).add_(scores))


def _argmax_of_survivors(
    scores: Tensor, survivors: Tensor, seeds: Tensor, positions: Tensor, keys: NoiseKeys | None
) -> Tensor:
    """As :func:`_argmax_of_all` over the tokens that ``survivors`` marks; 0 for rows without any."""
    rows, token_ids = survivors.nonzero(as_tuple=True)
    noise_ids = token_ids if keys is None else keys.ids[token_ids]
    noisy = scores[rows, token_ids] + gumbel_noise_at(seeds[rows], positions[rows], noise_ids)
    counts = torch.bincount(rows, minlength=scores.shape[0]).tolist()
    of_rows = zip(token_ids.split(counts), noisy.split(counts), strict=True)
    return torch.stack([ids[values.argmax()] if len(ids) > 0 else ids.new_zeros(()) for ids, values in of_rows])
