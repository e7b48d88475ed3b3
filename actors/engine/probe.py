"""Finds out, before serving, whether a model can run through the paged attention, and what its layers store.

Support is not read off a list of architectures: a short sequence is run with a context that watches, then the paged
path is compared with the model's own forward, for two packed sequences and for a cache that grows in two steps. What
does not pass is served through transformers' own cache.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol

import torch

from actors.engine.attention import IMPLEMENTATION, AttentionCall, AttentionSpan, PagedAttention, attention_context
from actors.engine.batch import Span
from actors.engine.forward import input_device, packed_forward
from actors.engine.kv_cache import KVCache, LayerSpec
from actors.engine.loaded import LoadedModel

NUM_PROBE_TOKENS = 7
# How far logits of two correct paths may lie apart, relative to their norm: rounding in half precision, and 4-bit
# kernels that choose their arithmetic by the number of rows, on the one side; a missing bias or mask on the other.
TOLERANCES = {torch.float32: 2e-3, torch.float64: 2e-3}
COARSE_TOLERANCE = 0.15
HARMLESS_EXTRAS = frozenset({"position_ids", "dropout", "use_cache"})
BATCH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})  # frequencies that change with the longest of the batch


class Forwards(Protocol):
    """What of a runner is checked."""

    def forward(self, spans: Seq[Span], num_layers: int = 0) -> torch.Tensor:
        """See :class:`actors.engine.runner.Runner`."""


class UnsupportedModelError(Exception):
    """The model cannot run through the paged attention; the message says why."""


@dataclass(slots=True)
class ProbeAttention:
    """An attention context that serves one short sequence and notes what each layer stores and asks for."""

    layers: dict[int, LayerSpec] = field(default_factory=dict)
    windows: dict[int, int | None] = field(default_factory=dict)
    problems: set[str] = field(default_factory=set)

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """See :class:`actors.engine.attention.AttentionContext`."""
        layer, key = call.layer, call.key
        if layer is None or layer in self.layers:
            raise UnsupportedModelError("an attention layer has no index of its own")
        if not call.is_causal:
            self.problems.add("attention that is not causal")
        for name, given in call.extra.items():
            if isinstance(given, torch.Tensor) and name not in HARMLESS_EXTRAS:
                self.problems.add(f"attention with {name}")
        spec = LayerSpec(key.shape[0], key.shape[2], call.value.shape[2], key.dtype, key.device)
        self.layers[layer] = spec
        self.windows[layer] = call.window
        length = key.shape[1]
        alone = PagedAttention(
            cache=KVCache({layer: spec}, num_blocks=1, block_size=length),
            slots={key.device: torch.arange(length, device=key.device)},
            spans=[AttentionSpan(0, length, length, ((0, length),))],
        )
        return alone.attend(call)


def probe_layers(loaded: LoadedModel) -> dict[int, LayerSpec]:
    """What each attention layer stores, by layer index. Leaves the registered attention set on the model.

    Raises:
        UnsupportedModelError: the model does not take the attention interface, or asks of it what it cannot do.
    """
    config = loaded.config
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {str(part.get("rope_type")) for part in (rope, *rope.values()) if isinstance(part, dict)}
    if kinds & BATCH_DEPENDENT_ROPE:
        raise UnsupportedModelError(f"rotary frequencies of type {', '.join(sorted(kinds & BATCH_DEPENDENT_ROPE))}")
    try:
        loaded.model.set_attn_implementation(IMPLEMENTATION)
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise UnsupportedModelError(str(error).splitlines()[0]) from error
    probe = ProbeAttention()
    ids = probe_ids(loaded, NUM_PROBE_TOKENS)
    with torch.inference_mode(), attention_context(probe):
        packed_forward(loaded.model, ids, range(len(ids)), [len(ids) - 1], input_device(loaded))
    num_layers = int(config.num_hidden_layers)
    if len(probe.layers) != num_layers:
        probe.problems.add(f"{len(probe.layers)} of {num_layers} layers use the attention interface")
    layer_types = getattr(config, "layer_types", None) or []
    for index, kind in enumerate(layer_types[:num_layers]):
        window = probe.windows.get(index)
        if kind == "sliding_attention" and window is None:
            probe.problems.add("a sliding window that attention is not told of")
        if kind not in ("full_attention", "sliding_attention", "attention"):
            probe.problems.add(f"layers of type {kind}")
    if probe.problems:
        raise UnsupportedModelError("; ".join(sorted(probe.problems)))
    return probe.layers


def reference_logits(loaded: LoadedModel, ids: Seq[int]) -> torch.Tensor:
    """Logits (vocab_size,) behind ``ids`` by the model's own eager attention; the implementation is restored."""
    before = loaded.model.config._attn_implementation
    loaded.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            out = loaded.model(
                input_ids=torch.tensor([ids], device=input_device(loaded)), use_cache=False, logits_to_keep=1
            )
    finally:
        loaded.model.set_attn_implementation(before)
    logits: torch.Tensor = out.logits
    return logits[0, -1].float().cpu()


def check_paged(loaded: LoadedModel, make_runner: Callable[[int, int], Forwards]) -> None:
    """Compare the paged path, over a small cache of its own, with the model's own forward.

    Args:
        loaded: the model.
        make_runner: takes a number of blocks and their size.

    Raises:
        UnsupportedModelError: their logits differ by more than rounding.
    """
    first, second = probe_ids(loaded, NUM_PROBE_TOKENS), probe_ids(loaded, 2 * NUM_PROBE_TOKENS)[::-1]
    size = len(second)
    runner = make_runner(2, size)
    packed = runner.forward([Span("a", first, 0, ((0, 1),), 1), Span("b", second[:-1], 0, ((1, 1),), 0)])[0].cpu()
    grown = runner.forward([Span("b", second[-1:], size - 1, ((1, 1),), 1)])[0].cpu()
    tolerance = COARSE_TOLERANCE
    if not getattr(loaded.model, "is_quantized", False):
        tolerance = TOLERANCES.get(loaded.model.dtype, COARSE_TOLERANCE)
    for name, got, ids in (("packed", packed, first), ("grown", grown, second)):
        want = reference_logits(loaded, ids)
        distance = float((got.float().cpu() - want).norm() / want.norm().clamp_min(1e-9))
        if not distance <= tolerance:
            raise UnsupportedModelError(f"logits of a {name} sequence are off by {distance:.2g} of their norm")


def probe_ids(loaded: LoadedModel, count: int) -> list[int]:
    """``count`` distinct-looking ids, none of them special as far as that can be known."""
    return [1 + (37 * index + 11) % max(1, loaded.vocab_size - 1) for index in range(count)]
