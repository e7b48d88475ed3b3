"""Products of a few rows with 4-bit weights on a GPU by a kernel of our own, ``kernels/four_bit.cu``.

On an H200 bitsandbytes' fused kernels read the weights of an 8B model at a quarter of what the memory gives, and five
rows take two and a half times as long as one (``tests/benchmarks/LOG.md``). This one takes the same time for 1 to 8
rows, and a row's result does not depend on how many others there are, so that checking drafts computes what plain
decoding would have, to the bit. CUDA's run-time compiler, which torch brings, compiles it for the device at hand.
"""

import logging
from functools import cache
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

MAX_ROWS = 64
BLOCKSIZE = 64  # weights that share a scale
CHUNK = 256  # columns that a warp takes at a time; rows with scales in 8 bits have whole ones only
_SOURCE = Path(__file__).parent / "kernels" / "four_bit.cu"
_NUM_WARPS = 8
_STRIP = 16  # weight rows that a block of threads takes at a time
_BLOCKS_PER_MULTIPROCESSOR = 2
_TABLE_BYTES = 256 * 32 * 4
_STAGE_BYTES = _STRIP * 160 + 256


@cache
def _kernel(device: int, num_tiles: int, is_bf16: bool, is_nested: bool) -> Any:
    """The kernel for up to ``8 * num_tiles`` rows. Raises RuntimeError and others where it cannot be compiled."""
    flags = [
        f"-DNUM_TILES={num_tiles}",
        f"-DNUM_STAGES={_num_stages(num_tiles)}",
        f"-DIS_BF16={int(is_bf16)}",
        f"-DIS_NESTED={int(is_nested)}",
    ]
    with torch.cuda.device(device):
        kernel = torch.cuda._compile_kernel(_SOURCE.read_text(), "four_bit_product", nvcc_options=flags)
        kernel.set_shared_memory_config(_shared_bytes(num_tiles))
    return kernel


def _num_stages(num_tiles: int) -> int:
    """Chunks that are on their way or being used at once: as many as two blocks of threads have room for."""
    return 3 if num_tiles <= 2 else 2


def _shared_bytes(num_tiles: int) -> int:
    return _TABLE_BYTES + _NUM_WARPS * (_num_stages(num_tiles) * _STAGE_BYTES + num_tiles * 8 * _STRIP * 4)


@cache
def _num_blocks(device: int) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count) * _BLOCKS_PER_MULTIPROCESSOR


def code_pairs(levels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What both codes of each byte stand for, (256, 2) in ``dtype``, the high nibble's first; ``levels`` is (16,)."""
    codes = torch.arange(256, device=levels.device)
    return torch.stack([levels[codes >> 4], levels[codes & 15]], dim=-1).to(dtype).contiguous()


@torch.library.custom_op("slipstream::four_bit_product", mutates_args=())
def four_bit_product(
    x: torch.Tensor,
    packed: torch.Tensor,
    num_out: int,
    quant_type: str,
    pairs: torch.Tensor,
    absmax: torch.Tensor,
    bias: torch.Tensor | None,
    absmax_8bit: torch.Tensor | None,
    absmax_code: torch.Tensor | None,
    absmax_offset: torch.Tensor | None,
) -> torch.Tensor:
    """``x`` (..., K) in half precision times weights (num_out, K) of 4 bits: (..., num_out).

    Args:
        x: rows; more than MAX_ROWS go to bitsandbytes, which unpacks weights once for many.
        packed: codes, two a byte.
        num_out: rows of the weights, a multiple of 16.
        quant_type: ``nf4`` or ``fp4``.
        pairs: of :func:`code_pairs`, in the dtype of ``x``.
        absmax: scales of blocks of 64, or of 256 scales where these are codes themselves.
        bias: (num_out,) in the dtype of ``x``.
        absmax_8bit: codes of the scales; None where they are plain.
        absmax_code: (256,) what these stand for.
        absmax_offset: added to each scale.
    """
    num_in = x.shape[-1]
    num_rows = x.numel() // num_in
    if num_rows > MAX_ROWS:
        product: torch.Tensor = torch.ops.bitsandbytes.gemm_4bit.default(
            x,
            packed,
            [num_out, num_in],
            absmax,
            BLOCKSIZE,
            quant_type,
            bias=bias,
            absmax_8bit=absmax_8bit,
            absmax_code=absmax_code,
            absmax_offset=absmax_offset,
        )
        return product
    x = x.contiguous()
    out = x.new_empty(*x.shape[:-1], num_out)
    num_tiles = 1 << max(0, (num_rows - 1) // 8).bit_length()
    kernel = _kernel(x.device.index, num_tiles, x.dtype is torch.bfloat16, absmax_8bit is not None)
    kernel(
        grid=(min(num_out // _STRIP, _num_blocks(x.device.index)), 1, 1),
        block=(32 * _NUM_WARPS, 1, 1),
        args=[
            x,
            packed,
            absmax,
            absmax if absmax_8bit is None else absmax_8bit,
            absmax if absmax_code is None else absmax_code,
            absmax if absmax_offset is None else absmax_offset,
            pairs,
            x if bias is None else bias,
            out,
            num_rows,
            num_out,
            num_in,
            int(bias is not None),
        ],
        shared_mem=_shared_bytes(num_tiles),
    )
    return out


@four_bit_product.register_fake
def _shape(x: torch.Tensor, packed: torch.Tensor, num_out: int, *rest: Any) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], num_out)


@cache
def can_compile(device: int) -> bool:
    """Whether the kernel runs on a device; says so once where it does not."""
    try:
        _kernel(device, 1, True, False)
    except Exception as error:  # an old device, or an installation without CUDA's run-time compiler
        logger.warning("4-bit products run by bitsandbytes' kernels: %s: %s", type(error).__name__, error)
        return False
    return True
