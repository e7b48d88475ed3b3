"""Paged attention for ragged batches as Triton kernels: decode, verify and prefill chunk in one call.

``torch.nn.attention.varlen`` takes block tables from torch 2.13 on, in half precision, without soft-capping, and splits
keys by the longest sequence of the batch, so that a sequence's sums depend on its neighbours. Here keys are split at
fixed absolute positions: what a sequence gets is a function of that sequence alone (DESIGN, rule 2).
"""

import torch
import triton

from actors.engine.kernels.paged import attend_kernel, join_kernel, write_kernel

SPLIT_KEYS = 256  # keys that one program reads of a sequence with few queries; a power of two
MIN_TILE_ROWS = 16  # the fewest rows that a matrix unit takes


def write_paged(
    keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor
) -> None:
    """Store ``keys`` (G, T, D) and ``values`` (G, T, E) at ``slots`` (T,) int64 of the caches; -1 stores nothing."""
    num_groups, num_rows, key_dim = keys.shape
    value_dim = values.shape[2]
    write_kernel[(num_rows, num_groups)](
        keys,
        values,
        slots,
        key_cache,
        value_cache,
        keys.stride(0),
        keys.stride(1),
        values.stride(0),
        values.stride(1),
        KEY_DIM=key_dim,
        VALUE_DIM=value_dim,
        NUM_GROUPS=num_groups,
        TILE_DIM=triton.next_power_of_2(max(key_dim, value_dim)),
        num_warps=1,
    )


def attend_paged(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    items: torch.Tensor,
    tables: torch.Tensor,
    out: torch.Tensor,
    *,
    block_size: int,
    max_num_rows: int,
    num_splits: int,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> None:
    """Attend ragged queries to paged keys.

    Args:
        query: (num_heads, T, key_dim), contiguous in its last dimension.
        key_cache: (num_slots, num_kv_heads, key_dim), contiguous.
        value_cache: (num_slots, num_kv_heads, value_dim), contiguous.
        items: (num_items, 4) int64, for each some neighbouring queries of one sequence: its row in ``tables``, the
            first row of the batch, the number of rows (0 for an item that is padding), how many keys the last of them
            sees.
        tables: (num_sequences, max_num_blocks) int64 block ids, in order.
        out: (T, num_heads, value_dim), contiguous; rows that no item covers are left as they are.
        block_size: tokens a block.
        max_num_rows: the most rows of an item.
        num_splits: over how many programs the keys of an item are spread; each reads SPLIT_KEYS. 1 for one that reads
            all, however many there are.
        scaling: factor on the scores.
        window: keys a query sees at most, its own included; None for all.
        softcap: bound that scores are squeezed under by tanh; None for none.
    """
    num_heads, _, key_dim = query.shape
    num_groups, value_dim = value_cache.shape[1:]
    group_size = num_heads // num_groups
    tile_rows = max(MIN_TILE_ROWS, triton.next_power_of_2(max_num_rows * group_size))
    num_items = items.shape[0]
    is_half = query.dtype.itemsize == 2
    # Keys that a program looks at together: many where it has few rows, as far as shared memory goes.
    tile_keys = (128 if max(key_dim, value_dim) <= 128 and tile_rows <= 32 else 64) if is_half else 32
    is_split = num_splits > 1
    size = num_items * num_groups * num_splits * tile_rows if is_split else 0
    parts = torch.empty(size * value_dim, dtype=torch.float32, device=query.device)
    peaks = torch.empty(2 * size, dtype=torch.float32, device=query.device)
    shape = {
        "VALUE_DIM": value_dim,
        "NUM_GROUPS": num_groups,
        "GROUP_SIZE": group_size,
        "TILE_ROWS": tile_rows,
        "TILE_VALUE_DIM": max(16, triton.next_power_of_2(value_dim)),
        "SPLIT": SPLIT_KEYS,
    }
    attend_kernel[(num_items, num_groups, num_splits)](
        query,
        key_cache,
        value_cache,
        items,
        tables,
        out,
        parts,
        peaks,
        query.stride(0),
        query.stride(1),
        tables.stride(0),
        num_splits,
        size,
        scaling,
        window or 0,
        softcap or 0.0,
        KEY_DIM=key_dim,
        BLOCK_SIZE=block_size,
        TILE_KEYS=tile_keys,
        TILE_KEY_DIM=max(16, triton.next_power_of_2(key_dim)),
        HAS_SOFTCAP=softcap is not None,
        IS_SPLIT=is_split,
        PRECISION="tf32" if is_half else "ieee",
        num_warps=4 if tile_rows < 128 else 8,
        num_stages=2 if is_half else 1,
        **shape,
    )
    if is_split:
        join_kernel[(num_items, num_groups)](items, parts, peaks, out, num_splits, size, num_warps=4, **shape)
