"""Runs forwards: the one door between the scheduler's plan and the model."""

import logging
from collections.abc import Sequence as Seq
from typing import Protocol

import torch

from actors.engine.batch import Span
from actors.engine.cached_runner import CachedRunner
from actors.engine.config import EngineConfig
from actors.engine.kv_cache import KVCache
from actors.engine.loaded import LoadedModel
from actors.engine.packed_head import use_packed_head
from actors.engine.packed_linear import use_packed_linears
from actors.engine.paged_runner import PagedRunner
from actors.engine.probe import UnsupportedModelError, check_paged, probe_layers
from actors.engine.scheduler import Scheduler

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """Computes keys, values and logits for the spans of a step."""

    is_chunkable: bool
    """Whether a sequence's ids may come in any number of pieces, and be taken back."""

    def forward(self, spans: Seq[Span], num_layers: int = 0) -> torch.Tensor:
        """Compute all spans; logits (sum of their num_logits, vocab_size), in their order, until the next forward.

        ``num_layers`` says to how many of its layers the model has been cut; 0 where it is whole.
        """

    def copy(self, blocks: Seq[tuple[int, int]]) -> None:
        """Copy blocks, (from, to), before the next forward."""

    def fork(self, source: str, key: str) -> None:
        """Let a sequence begin with what is kept of another outside of its blocks."""

    def forget(self, key: str) -> None:
        """Drop what is kept for a sequence outside of its blocks."""


def build_runner(loaded: LoadedModel, config: EngineConfig, num_blocks: int) -> Runner:
    """A paged runner where the model can take it, transformers' own cache otherwise (with a warning)."""
    before = loaded.model.config._attn_implementation
    try:
        layers = probe_layers(loaded)
        check_paged(loaded, lambda blocks, size: PagedRunner(loaded, KVCache(layers, blocks, size), blocks * size))
    except UnsupportedModelError as error:
        loaded.model.set_attn_implementation(before)
        logger.warning(
            "%s runs through transformers' own cache, one sequence at a time and without drafts: %s",
            type(loaded.model).__name__,
            error,
        )
        return CachedRunner(loaded)
    cache = KVCache(layers, num_blocks, config.block_size)
    devices = {spec.device for spec in layers.values()}
    if len(devices) == 1 and next(iter(devices)).type == "cuda":
        runner = kernel_runner(loaded, config, cache)
        if runner is not None:
            return runner
    use_packed_linears(loaded.model)
    use_packed_head(loaded.model)
    return PagedRunner(loaded, cache, config.max_num_batched_tokens)


def kernel_runner(loaded: LoadedModel, config: EngineConfig, cache: KVCache) -> Runner | None:
    """A runner by the GPU's own kernels; None, with a warning, where they cannot be used or give other logits."""
    try:
        from actors.engine.kernel_building import build_kernel_runner  # Triton comes with CUDA builds of torch only

        return build_kernel_runner(loaded, config, cache)
    except Exception as error:
        logger.warning("attention runs by torch's own operations: %s: %s", type(error).__name__, error)
        return None


def pass_on_keys(scheduler: Scheduler, runner: Runner) -> None:
    """Tell a runner of which sequences' caches a scheduler has forked and dropped since the last call."""
    for source, key in scheduler.beams.forked_keys:
        runner.fork(source, key)
    scheduler.beams.forked_keys.clear()
    for key in scheduler.dropped_keys:
        runner.forget(key)
    scheduler.dropped_keys.clear()
