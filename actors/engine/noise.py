"""Counter-based Gumbel noise: a pure function of (seed, position, token id), alike on every device (DESIGN, rule 2).

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
written in torch's integer operations. The key is the 64-bit seed; the counter is (token id // 4, beam, low word of the
position, high word of the position), and a token takes the word of its block that its id modulo 4 names. So the noise
of a token does not depend on the vocabulary's size: a draft and a target with differently padded vocabularies agree.
The beam is 0 but in beam sampling.

32-bit words live in int64 lanes, since torch has no unsigned multiplication; bits above the 32nd are masked away where
they would matter.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Words = tuple[Tensor, Tensor, Tensor, Tensor]

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_NUM_ROUNDS = 10
_NUM_BROADCAST_ROUNDS = 2  # after these every word depends on every word, so all have the full shape
# Counters computed at once. On a CPU: few enough for the cache, and the most that torch does not split over threads,
# whose barriers cost far more than the arithmetic when other processes hold the cores. Elsewhere: bounded memory.
_MAX_COUNTERS_CPU = 1 << 15
_MAX_COUNTERS = 1 << 22
_LARGEST_BELOW_ONE = 1.0 - 2.0**-24


def philox4x32(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Philox4x32-10 of counters under keys.

    Args:
        counter: four int64 tensors of 32-bit words, of shapes that broadcast.
        key: two int64 tensors of 32-bit words, of shapes that broadcast with the counter's.

    Returns:
        Four int64 tensors of 32-bit words, of the broadcast shape.
    """
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(_NUM_BROADCAST_ROUNDS):
        p0, p1 = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0, x1, x2, x3 = ((p1 >> 32) ^ x1 ^ k0) & _MASK, p1 & _MASK, ((p0 >> 32) ^ x3 ^ k1) & _MASK, p0 & _MASK
        k0, k1 = _bump(k0, k1)
    shape = torch.broadcast_shapes(x0.shape, x1.shape, x2.shape, x3.shape)
    x0, x1, x2, x3 = (x.expand(shape).clone(memory_format=torch.contiguous_format) for x in (x0, x1, x2, x3))
    p0, p1 = torch.empty_like(x0), torch.empty_like(x0)
    for _ in range(_NUM_ROUNDS - _NUM_BROADCAST_ROUNDS):
        torch.mul(x0, _MULTIPLIERS[0], out=p0)
        torch.mul(x2, _MULTIPLIERS[1], out=p1)
        # x1 and x3 may carry a product's high bits; masking the sum of all three drops them.
        torch.bitwise_right_shift(p1, 32, out=x0).bitwise_xor_(x1).bitwise_xor_(k0).bitwise_and_(_MASK)
        torch.bitwise_right_shift(p0, 32, out=x2).bitwise_xor_(x3).bitwise_xor_(k1).bitwise_and_(_MASK)
        x1, p1 = p1, x1
        x3, p0 = p0, x3
        k0, k1 = _bump(k0, k1)
    return x0, x1.bitwise_and_(_MASK), x2, x3.bitwise_and_(_MASK)


def gumbel_noise(seeds: Tensor, positions: Tensor, vocab_size: int, beams: Tensor | None = None) -> Tensor:
    """Standard Gumbel noise for every token of some rows, on the device of ``seeds``.

    Args:
        seeds: (rows,) int64, not negative.
        positions: (rows,) int64, absolute position of the token that each row decides.
        vocab_size: tokens a row.
        beams: (rows,) int64, which beam each row is of; None where there are none.

    Returns:
        (rows, vocab_size) float32.
    """
    beams = torch.zeros_like(positions) if beams is None else beams
    if seeds.device.type == "cuda":
        from actors.engine.kernel_noise import can_compile, gumbel_by_kernel  # Triton comes with CUDA builds of torch

        if can_compile(seeds.device, _LARGEST_BELOW_ONE):
            return gumbel_by_kernel(seeds, positions, beams, vocab_size, _LARGEST_BELOW_ONE)
    return gumbel_by_torch(seeds, positions, beams, vocab_size)


def gumbel_by_torch(seeds: Tensor, positions: Tensor, beams: Tensor, vocab_size: int) -> Tensor:
    """:func:`gumbel_noise` in torch's own operations, on any device."""
    device = seeds.device
    seed, position, beam = seeds.unsqueeze(-1), positions.unsqueeze(-1), beams.unsqueeze(-1)
    num_blocks = -(-vocab_size // 4)
    noise = torch.empty(seeds.numel(), 4 * num_blocks, dtype=torch.float32, device=device)
    limit = _MAX_COUNTERS_CPU if device.type == "cpu" else _MAX_COUNTERS
    for first in range(0, num_blocks, limit):
        block = torch.arange(first, min(first + limit, num_blocks), dtype=torch.int64, device=device)
        num_rows = max(1, limit // block.numel())
        for start in range(0, seeds.numel(), num_rows):
            rows = slice(start, start + num_rows)
            for i, word in enumerate(_block_words(seed[rows], position[rows], block, beam[rows])):
                noise[rows, 4 * first + i : 4 * (first + block.numel()) : 4] = _to_gumbel(word)
    return noise[:, :vocab_size]


def gumbel_noise_at(seeds: Tensor, positions: Tensor, token_ids: Tensor) -> Tensor:
    """The same noise for chosen tokens only.

    Args:
        seeds: (n,) int64, one a wanted value, like the others.
        positions: (n,) int64.
        token_ids: (n,) int64.

    Returns:
        (n,) float32, equal to the entries of :func:`gumbel_noise`.
    """
    words = torch.stack(_block_words(seeds, positions, token_ids >> 2, torch.zeros_like(positions)), dim=-1)
    return _to_gumbel(words.gather(-1, (token_ids & 3).unsqueeze(-1)).squeeze(-1))


def gumbel_values(seed: int, position: int, token_ids: Sequence[int]) -> list[float]:
    """The same noise for some tokens of one position, as plain numbers."""
    count = len(token_ids)
    return gumbel_noise_at(
        torch.tensor([seed] * count), torch.tensor([position] * count), torch.tensor(token_ids)
    ).tolist()


def _block_words(seed: Tensor, position: Tensor, block: Tensor, beam: Tensor) -> Words:
    counter = (block, beam, position & _MASK, (position >> 32) & _MASK)
    return philox4x32(counter, (seed & _MASK, (seed >> 32) & _MASK))


def _bump(k0: Tensor, k1: Tensor) -> tuple[Tensor, Tensor]:
    return (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK


def _to_gumbel(words: Tensor) -> Tensor:
    """Standard Gumbel values, float32, from 32-bit words.

    With v = (word + 1/2) / 2**32, uniform in (0, 1), the value is -log(-log(1 - v)). Small v, where float32 keeps all
    of its 24 bits at every magnitude, are the large values, which decide who wins: the upper tail is exact down to
    probability 2**-33 (a value of 22.9). Only the losing end is coarse, cut where 1 - v would be 0.
    """
    v = words.to(torch.float32).add_(0.5).mul_(2.0**-32).clamp_(max=_LARGEST_BELOW_ONE)
    return v.neg_().log1p_().neg_().log_().neg_()
