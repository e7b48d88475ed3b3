"""Noise on a GPU by one kernel; torch's integer operations take a hundred launches for it."""

import logging
from functools import cache

import torch

from actors.engine.kernels.noise import gumbel_kernel

logger = logging.getLogger(__name__)

_TILE = 256
_TOLERANCE = 1e-4  # of a logarithm's last places, where its argument is near one


def gumbel_by_kernel(
    seeds: torch.Tensor, positions: torch.Tensor, beams: torch.Tensor, vocab_size: int, largest: float
) -> torch.Tensor:
    """As :func:`actors.engine.noise.gumbel_noise`: (rows, vocab_size) float32 on the device of ``seeds``.

    Args:
        seeds: (rows,) int64.
        positions: (rows,) int64.
        beams: (rows,) int64.
        vocab_size: tokens a row.
        largest: the largest uniform value, just below one.
    """
    out = torch.empty(seeds.numel(), vocab_size, dtype=torch.float32, device=seeds.device)
    grid = (seeds.numel(), -(-vocab_size // (4 * _TILE)))
    gumbel_kernel[grid](
        seeds.contiguous(),
        positions.contiguous(),
        beams.contiguous(),
        out,
        vocab_size,
        LARGEST=largest,
        TILE=_TILE,
        IS_COMPILED=seeds.device.type != "cpu",
    )
    return out


@cache
def can_compile(device: torch.device, largest: float) -> bool:
    """Whether the kernel gives torch's noise on a device; says so once where it does not."""
    from actors.engine.noise import gumbel_by_torch

    seeds = torch.tensor([7, 1 << 40], device=device)
    positions = torch.tensor([3, 1 << 35], device=device)
    beams = torch.tensor([0, 2], device=device)
    try:
        got = gumbel_by_kernel(seeds, positions, beams, 4099, largest)
        distance = float((got - gumbel_by_torch(seeds, positions, beams, 4099)).abs().max())
    except Exception as error:
        logger.warning("noise is drawn by torch's own operations: %s: %s", type(error).__name__, error)
        return False
    if not distance <= _TOLERANCE:
        logger.warning("noise is drawn by torch's own operations: the kernel's is off by %.2g", distance)
        return False
    return True
