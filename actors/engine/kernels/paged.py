"""Attention of a ragged batch over paged keys and values; :mod:`actors.engine.paged_kernels` launches it and says why.

The running softmax over tiles of keys is FlashAttention's (Dao et al., arXiv 2205.14135), its split along the keys with
a last step that joins the parts is Flash-Decoding's (Dao, Haziza, Massa, Sizov, 2023). Heads that share keys are rows
of one tile, so that keys are read once for the group.
"""

import triton
import triton.language as tl


@triton.jit
def write_kernel(
    keys,  # (G, T, D)
    values,  # (G, T, E)
    slots,  # (T,) int64, -1 for rows that are padding
    key_cache,  # (num_slots, G, D)
    value_cache,  # (num_slots, G, E)
    key_head_stride,
    key_row_stride,
    value_head_stride,
    value_row_stride,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    TILE_DIM: tl.constexpr,
):
    """Store one token's keys and values of one head at its slot."""
    row = tl.program_id(0)
    group = tl.program_id(1)
    slot = tl.load(slots + row)
    if slot >= 0:
        dim = tl.arange(0, TILE_DIM)
        at = slot * NUM_GROUPS + group
        key = tl.load(keys + group * key_head_stride + row * key_row_stride + dim, mask=dim < KEY_DIM)
        tl.store(key_cache + at * KEY_DIM + dim, key, mask=dim < KEY_DIM)
        value = tl.load(values + group * value_head_stride + row * value_row_stride + dim, mask=dim < VALUE_DIM)
        tl.store(value_cache + at * VALUE_DIM + dim, value, mask=dim < VALUE_DIM)


@triton.jit(do_not_specialize=["table_stride", "num_splits", "peaks_size", "window"])
def attend_kernel(
    query,  # (H, T, D)
    key_cache,  # (num_slots, G, D)
    value_cache,  # (num_slots, G, E)
    items,  # (num_items, 4) int64: row of the block table, first row of the batch, number of rows, keys of the last
    tables,  # (num_seqs, max_num_blocks) int64
    out,  # (T, H, E)
    parts,  # (num_items, G, num_splits, TILE_ROWS, E) float32
    peaks,  # (2, num_items, G, num_splits, TILE_ROWS) float32: largest score, sum of exponentials
    query_head_stride,
    query_row_stride,
    table_stride,
    num_splits,
    peaks_size,
    scaling,
    window,  # keys a query sees at most; 0 for all
    softcap,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    TILE_KEY_DIM: tl.constexpr,
    TILE_VALUE_DIM: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend one item's queries of one group of heads to the keys of one split."""
    item = tl.program_id(0)
    group = tl.program_id(1)
    split = tl.program_id(2)
    table = tl.load(items + item * 4) * table_stride
    first_row = tl.load(items + item * 4 + 1).to(tl.int32)
    num_rows = tl.load(items + item * 4 + 2).to(tl.int32)
    num_keys = tl.load(items + item * 4 + 3).to(tl.int32)

    tile = tl.arange(0, TILE_ROWS)
    row = tile // GROUP_SIZE
    head = group * GROUP_SIZE + tile % GROUP_SIZE
    is_row = row < num_rows
    position = num_keys - num_rows + row  # of each query
    key_dim = tl.arange(0, TILE_KEY_DIM)
    value_dim = tl.arange(0, TILE_VALUE_DIM)
    q = tl.load(
        query + head[:, None] * query_head_stride + (first_row + row)[:, None] * query_row_stride + key_dim[None, :],
        mask=is_row[:, None] & (key_dim < KEY_DIM)[None, :],
        other=0.0,
    )

    peak = tl.full([TILE_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([TILE_ROWS], tl.float32)
    acc = tl.zeros([TILE_ROWS, TILE_VALUE_DIM], tl.float32)
    first = 0
    if window > 0:
        first = tl.maximum(num_keys - num_rows - window + 1, 0) // TILE_KEYS * TILE_KEYS
    last = num_keys
    if IS_SPLIT:
        first = tl.maximum(first, split * SPLIT)
        last = tl.minimum(last, (split + 1) * SPLIT)
    for start in range(first, last, TILE_KEYS):
        key = start + tl.arange(0, TILE_KEYS)
        is_key = key < last
        block = tl.load(tables + table + key // BLOCK_SIZE, mask=is_key, other=0)
        slot = block * BLOCK_SIZE + key % BLOCK_SIZE
        at = slot * NUM_GROUPS + group
        k = tl.load(
            key_cache + at[None, :] * KEY_DIM + key_dim[:, None],
            mask=is_key[None, :] & (key_dim < KEY_DIM)[:, None],
            other=0.0,
        )
        scores = tl.dot(q, k, input_precision=PRECISION) * scaling
        if HAS_SOFTCAP:
            scores = softcap * (1.0 - 2.0 / (tl.exp(2.0 * scores / softcap) + 1.0))
        is_seen = is_key[None, :] & (key[None, :] <= position[:, None])
        if window > 0:
            is_seen = is_seen & (key[None, :] > position[:, None] - window)
        scores = tl.where(is_seen, scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        # A row that has seen nothing yet must not make NaN of -inf minus -inf.
        anchor = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.exp(scores - anchor[:, None])
        shrink = tl.exp(peak - anchor)
        total = total * shrink + tl.sum(weights, 1)
        v = tl.load(
            value_cache + at[:, None] * VALUE_DIM + value_dim[None, :],
            mask=is_key[:, None] & (value_dim < VALUE_DIM)[None, :],
            other=0.0,
        )
        acc = acc * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        peak = new_peak

    if IS_SPLIT:
        part = ((item * NUM_GROUPS + group) * num_splits + split) * TILE_ROWS + tile
        tl.store(peaks + part, peak, mask=is_row)
        tl.store(peaks + peaks_size + part, total, mask=is_row)
        tl.store(
            parts + part[:, None] * VALUE_DIM + value_dim[None, :],
            acc,
            mask=is_row[:, None] & (value_dim < VALUE_DIM)[None, :],
        )
    else:
        result = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        tl.store(
            out + ((first_row + row) * NUM_GROUPS * GROUP_SIZE + head)[:, None] * VALUE_DIM + value_dim[None, :],
            result.to(out.dtype.element_ty),
            mask=is_row[:, None] & (value_dim < VALUE_DIM)[None, :],
        )


@triton.jit(do_not_specialize=["num_splits", "peaks_size"])
def join_kernel(
    items,
    parts,
    peaks,
    out,
    num_splits,
    peaks_size,
    VALUE_DIM: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_VALUE_DIM: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Join the splits of one item's queries of one group of heads, in order."""
    item = tl.program_id(0)
    group = tl.program_id(1)
    first_row = tl.load(items + item * 4 + 1).to(tl.int32)
    num_rows = tl.load(items + item * 4 + 2).to(tl.int32)
    num_keys = tl.load(items + item * 4 + 3).to(tl.int32)
    tile = tl.arange(0, TILE_ROWS)
    row = tile // GROUP_SIZE
    head = group * GROUP_SIZE + tile % GROUP_SIZE
    is_row = row < num_rows
    value_dim = tl.arange(0, TILE_VALUE_DIM)
    peak = tl.full([TILE_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([TILE_ROWS], tl.float32)
    acc = tl.zeros([TILE_ROWS, TILE_VALUE_DIM], tl.float32)
    for split in range(0, tl.cdiv(num_keys, SPLIT)):
        part = ((item * NUM_GROUPS + group) * num_splits + split) * TILE_ROWS + tile
        its_peak = tl.load(peaks + part, mask=is_row, other=float("-inf"))
        its_total = tl.load(peaks + peaks_size + part, mask=is_row, other=0.0)
        its_acc = tl.load(
            parts + part[:, None] * VALUE_DIM + value_dim[None, :],
            mask=is_row[:, None] & (value_dim < VALUE_DIM)[None, :],
            other=0.0,
        )
        new_peak = tl.maximum(peak, its_peak)
        anchor = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        mine, its = tl.exp(peak - anchor), tl.exp(its_peak - anchor)
        total = total * mine + its_total * its
        acc = acc * mine[:, None] + its_acc * its[:, None]
        peak = new_peak
    result = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(
        out + ((first_row + row) * NUM_GROUPS * GROUP_SIZE + head)[:, None] * VALUE_DIM + value_dim[None, :],
        result.to(out.dtype.element_ty),
        mask=is_row[:, None] & (value_dim < VALUE_DIM)[None, :],
    )
