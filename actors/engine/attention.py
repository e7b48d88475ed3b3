"""Attention of a ragged batch over the paged cache, as an attention function registered with transformers.

All new ids of a step lie one behind the other in a batch of one row, (1, num_tokens). The model computes them as usual;
only attention knows which of them belong together. The step's plan reaches the registered function through a context
variable, not through keyword arguments, since not every model passes those on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from actors.engine.beam_keys import BeamKeys
from actors.engine.kv_cache import KVCache

IMPLEMENTATION = "slipstream"
MAX_ROW_QUERIES = 16  # above it, heads of a group run as heads rather than as rows of one head


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """What one layer asks of attention for the T new tokens of a step.

    Attributes:
        layer: index of the layer; None where the module has none.
        query: (num_heads, T, dim).
        key: (num_kv_heads, T, dim).
        value: (num_kv_heads, T, value_dim).
        scaling: factor on the scores.
        window: how many keys a query sees at most, its own included; None for all.
        softcap: bound that scores are squeezed under; None for none.
        is_causal: whether the module says so of itself.
        extra: what else the model passed on.
    """

    layer: int | None
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scaling: float
    window: int | None
    softcap: float | None
    is_causal: bool
    extra: dict[str, Any]


class AttentionContext(Protocol):
    """Where the registered function finds what it needs of the running step."""

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attend the new tokens of one layer: (T, num_heads, value_dim)."""


_current: ContextVar[AttentionContext] = ContextVar("attention_context")


@contextmanager
def attention_context(context: AttentionContext) -> Iterator[None]:
    """Let the registered function use ``context`` inside the block."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def _registered(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The function transformers calls: query (1, num_heads, T, dim) and so on; returns (1, T, num_heads, dim)."""
    if torch.compiler.is_compiling():
        # One operation that is not looked into; code that is compiled once for all layers must not ask for an index.
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        return _attend(query[0], key[0], value[0], factor, sliding_window or 0, softcap or 0.0)[None], None
    call = AttentionCall(
        layer=getattr(module, "layer_idx", None),
        query=query[0],
        key=key[0],
        value=value[0],
        scaling=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        window=sliding_window,
        softcap=softcap,
        is_causal=getattr(module, "is_causal", True) is not False,
        extra=kwargs,
    )
    return _current.get().attend(call)[None], None


@torch.library.custom_op("slipstream::attend", mutates_args=())
def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, window: int, softcap: float
) -> torch.Tensor:
    """Attention as an operation of compiled code; 0 stands for no window and for no soft-capping."""
    call = AttentionCall(None, query, key, value, scaling, window or None, softcap or None, True, {})
    return _current.get().attend(call)


@_attend.register_fake
def _attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, window: int, softcap: float
) -> torch.Tensor:
    return query.new_empty(query.shape[1], query.shape[0], value.shape[2])


AttentionInterface.register(IMPLEMENTATION, _registered)


@dataclass(frozen=True, slots=True)
class AttentionSpan:
    """One sequence's part of a packed batch: rows ``first`` to ``first + num_queries``, the last of ``num_keys`` keys.

    ``runs`` are (first slot, number of slots) of its ``num_keys`` keys. With ``beams`` it is of several sequences, each
    with one query behind ``num_keys`` - 1 keys of its own, and ``runs`` are all that any of them sees.
    """

    first: int
    num_queries: int
    num_keys: int
    runs: tuple[tuple[int, int], ...]
    beams: BeamKeys | None = None


@dataclass(slots=True)
class PagedAttention:
    """The attention context of one step: writes new keys and values, then attends sequence by sequence.

    Attributes:
        cache: all keys and values.
        slots: where each of the T new tokens is stored, on each device in use.
        spans: the sequences' parts.
    """

    cache: KVCache
    slots: dict[torch.device, torch.Tensor]
    spans: list[AttentionSpan]
    _masks: dict[tuple[int, int, int | None, int, torch.device], torch.Tensor] = field(default_factory=dict)
    _beam_masks: dict[tuple[int, int, int, torch.device], tuple[int, torch.Tensor]] = field(default_factory=dict)

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """See :class:`AttentionContext`."""
        assert call.layer is not None  # the probe has seen to it
        self.cache.write(call.layer, self.slots[call.key.device], call.key.transpose(0, 1), call.value.transpose(0, 1))
        num_heads, num_rows, dim = call.query.shape
        num_groups = call.key.shape[0]
        grouped = call.query.transpose(0, 1).reshape(num_rows, num_groups, num_heads // num_groups, dim)
        output = call.query.new_empty(*grouped.shape[:3], call.value.shape[-1])
        window = call.window
        for span in self.spans:
            rows = slice(span.first, span.first + span.num_queries)
            if span.beams is not None:
                output[rows] = self._attend_beams(span, span.beams, grouped[rows], call)
                continue
            # Keys that the window has left behind for every query of the span are not even read.
            skip = 0 if window is None else max(0, span.num_keys - span.num_queries - window + 1)
            keys, values = self.cache.read(call.layer, span.runs, skip)
            output[rows] = self._attend_one(grouped[rows], keys, values, call.scaling, window, call.softcap)
        return output.flatten(1, 2)

    def _attend_one(
        self,
        query: torch.Tensor,  # (Q, G, H / G, D)
        keys: torch.Tensor,  # (1, G, K, D)
        values: torch.Tensor,  # (1, G, K, E)
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """Attend one sequence's last Q positions: (Q, G, H / G, E)."""
        num_queries, _, group, _ = query.shape
        num_keys = keys.shape[2]
        if num_queries == 1 and softcap is None:
            return F.scaled_dot_product_attention(query, keys, values, scale=scaling)
        if softcap is not None or num_queries <= MAX_ROW_QUERIES:
            mask = self._mask(num_queries, num_keys, window, group, query.device)
            return _attend_rows(query, keys, values, scaling, softcap, mask)
        is_plain = num_keys == num_queries and (window is None or window >= num_keys)
        out = F.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),
            keys.transpose(0, 1).expand(-1, group, -1, -1),
            values.transpose(0, 1).expand(-1, group, -1, -1),
            None if is_plain else self._mask(num_queries, num_keys, window, 1, query.device),
            is_causal=is_plain,
            scale=scaling,
        )
        return out.permute(2, 0, 1, 3)

    def _attend_beams(
        self, span: AttentionSpan, beams: BeamKeys, query: torch.Tensor, call: AttentionCall
    ) -> torch.Tensor:
        """Attend the newest positions of a search's beams, query (B, G, H / G, D): (B, G, H / G, E)."""
        assert call.layer is not None
        first = 0 if call.window is None else max(0, span.num_keys - call.window)
        at = (span.first, first, query.shape[2], query.device)
        if at not in self._beam_masks:
            skip = beams.num_outside(first)
            self._beam_masks[at] = skip, beams.mask(first, skip).repeat(query.shape[2], 1).to(query.device)
        skip, mask = self._beam_masks[at]
        keys, values = self.cache.read(call.layer, span.runs, skip)
        return _attend_rows(query, keys, values, call.scaling, call.softcap, mask)

    def _mask(
        self, num_queries: int, num_keys: int, window: int | None, group: int, device: torch.device
    ) -> torch.Tensor:
        """True where query row (group * num_queries) may see key (num_keys); the same for all layers of a step."""
        at = (num_queries, num_keys, window, group, device)
        mask = self._masks.get(at)
        if mask is None:
            behind = (
                torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
                - torch.arange(num_keys, device=device)[None]
            )  # (Q, K): how far the key lies behind the query
            mask = behind >= 0 if window is None else (behind >= 0) & (behind < window)
            mask = self._masks[at] = mask.repeat(group, 1)
        return mask


def _attend_rows(
    query: torch.Tensor,  # (Q, G, H / G, D)
    keys: torch.Tensor,  # (1, G, K, D)
    values: torch.Tensor,  # (1, G, K, E)
    scaling: float,
    softcap: float | None,
    mask: torch.Tensor,  # (H / G * Q, K)
) -> torch.Tensor:
    """Attend with heads that share keys as rows of one matrix, so that keys are read once: (Q, G, H / G, E)."""
    num_queries, num_groups, group, dim = query.shape
    rows = query.permute(1, 2, 0, 3).reshape(1, num_groups, group * num_queries, dim)
    if softcap is not None:
        out = _soft_capped(rows, keys, values, scaling, softcap, mask)
    else:
        out = F.scaled_dot_product_attention(rows, keys, values, mask, scale=scaling)
    return out.view(num_groups, group, num_queries, -1).permute(2, 0, 1, 3)


def _soft_capped(
    rows: torch.Tensor,  # (1, G, R, D)
    keys: torch.Tensor,  # (1, G, K, D)
    values: torch.Tensor,  # (1, G, K, E)
    scaling: float,
    softcap: float,
    mask: torch.Tensor,  # (R, K)
) -> torch.Tensor:
    """Attention whose scores are squeezed into (-softcap, softcap) by tanh, as Gemma 2 has it: (1, G, R, E)."""
    scores = torch.tanh(rows @ keys.transpose(2, 3) * scaling / softcap) * softcap
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype) @ values
