"""Gumbel noise of :mod:`actors.engine.noise` in one pass: Philox and two logarithms for each token of a row."""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def gumbel_kernel(
    seeds,  # (rows,) int64
    positions,  # (rows,) int64
    beams,  # (rows,) int64
    out,  # (rows, vocab_size) float32
    vocab_size,
    LARGEST: tl.constexpr,  # below one
    TILE: tl.constexpr,
    IS_COMPILED: tl.constexpr,  # interpreted code has no libdevice
):
    """Write the noise of TILE blocks of four tokens of one row."""
    row = tl.program_id(0)
    block = tl.program_id(1) * TILE + tl.arange(0, TILE)
    position = tl.load(positions + row)
    zero = tl.zeros([TILE], tl.int32)
    words = tl.philox(
        tl.load(seeds + row),
        block,
        zero + tl.load(beams + row).to(tl.int32),
        zero + (position & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True),
        zero + (position >> 32).to(tl.int32),
    )
    for index in tl.static_range(4):
        v = tl.minimum((words[index].to(tl.float32) + 0.5) * 2.3283064365386963e-10, LARGEST)
        if IS_COMPILED:
            noise = -libdevice.log(-libdevice.log1p(-v))
        else:
            noise = -tl.log(-tl.where(1.0 - v == 1.0, -v, tl.log(1.0 - v) * (v / (1.0 - (1.0 - v)))))
        token = block * 4 + index
        tl.store(out + row.to(tl.int64) * vocab_size + token, noise, mask=token < vocab_size)
