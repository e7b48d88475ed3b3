"""Making a runner for a GPU: layers fused and compiled as far as the model allows, and held against the model."""

import logging
from collections.abc import Callable

from actors.engine.compiled_layers import CompiledLayers
from actors.engine.config import EngineConfig
from actors.engine.fused_linear import use_fused_linears
from actors.engine.kernel_runner import KernelRunner
from actors.engine.kv_cache import KVCache
from actors.engine.loaded import LoadedModel
from actors.engine.probe import check_paged

logger = logging.getLogger(__name__)


def build_kernel_runner(loaded: LoadedModel, config: EngineConfig, cache: KVCache) -> KernelRunner:
    """A runner over ``cache`` whose layers are all on one GPU.

    Raises:
        UnsupportedModelError: kernels give other logits than the model's own forward.
    """

    def small(layers: CompiledLayers | None) -> Callable[[int, int], KernelRunner]:
        def make(num_blocks: int, block_size: int) -> KernelRunner:
            own = KVCache(cache.layers, num_blocks, block_size)
            return KernelRunner(loaded, own, num_blocks * block_size, has_graphs=False, layers=layers)

        return make

    use_fused_linears(loaded.model)
    check_paged(loaded, small(None))
    layers = CompiledLayers(loaded.model) if config.compile_layers else None
    if layers is not None:
        try:
            check_paged(loaded, small(layers))
        except Exception as error:
            layers = None
            logger.warning("layers run as they are, not compiled: %s: %s", type(error).__name__, error)
    runner = KernelRunner(loaded, cache, config.max_num_batched_tokens, has_graphs=config.cuda_graphs, layers=layers)
    runner.warm_up(config.max_num_seqs)
    if runner.graphs is not None and len(runner.graphs) > 0:
        logger.info(
            "captured %d steps in %.1f s and %.0f MiB",
            len(runner.graphs),
            runner.graphs.seconds,
            runner.graphs.num_bytes / 2**20,
        )
    return runner
