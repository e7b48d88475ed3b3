"""CUDA graphs of whole steps: a step of a known shape is one launch instead of a thousand.

Batches are padded to a few shapes (buckets), and each bucket is captured when it is first met. A graph reads its inputs
from a buffer of its own on the device, which a step fills with one copy. All graphs share one pool of memory, so what
one returns holds until the next one runs.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from actors.engine.kernel_batch import KernelBatch, KernelShape

logger = logging.getLogger(__name__)

MAX_GRAPH_TOKENS = 256  # past it a step is long enough to hide its launches
MAX_NUM_GRAPHS = 96
# Up to so many, multiples of. Few tokens are read with the weights in the time of one, so there are no shapes below 8.
_ROUNDING = ((64, 8), (MAX_GRAPH_TOKENS, 32))


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a graph is captured for.

    Attributes:
        shape: sizes of its inputs.
        max_few_rows: the most queries of a sequence.
        num_splits: over how many programs a sequence's keys are spread.
        num_layers: how many of the model's first layers run; 0 for all.
    """

    shape: KernelShape
    max_few_rows: int
    num_splits: int
    num_layers: int = 0


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: torch.Tensor  # (size,) int64
    logits: torch.Tensor  # (T, vocab_size)


Forward = Callable[[KernelBatch, Bucket], torch.Tensor]


class StepGraphs:
    """Captures steps, and replays them.

    Args:
        forward: computes a batch that lies on the device: logits (T, vocab_size).
        device: of the model.

    Attributes:
        seconds: spent on captures.
        num_bytes: of device memory that captures took.
    """

    def __init__(self, forward: Forward, device: torch.device) -> None:
        self._forward = forward
        self._device = device
        self._captured: dict[Bucket, _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._is_off = False
        self.seconds = 0.0
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._captured)

    def can_run(self, bucket: Bucket) -> bool:
        """Whether a bucket has a graph; captures it where it has none yet and there is room."""
        if bucket in self._captured:
            return True
        if self._is_off or len(self._captured) >= MAX_NUM_GRAPHS:
            return False
        started, free = time.perf_counter(), torch.cuda.mem_get_info(self._device)[0]
        try:
            self._captured[bucket] = self._capture(bucket)
        except Exception as error:  # a model that waits for the device cannot be captured; it runs as it is
            self._is_off = True
            logger.warning("steps run without CUDA graphs, launch by launch: %s: %s", type(error).__name__, error)
            return False
        self.seconds += time.perf_counter() - started
        self.num_bytes += max(0, free - torch.cuda.mem_get_info(self._device)[0])
        return True

    def run(self, bucket: Bucket, inputs: torch.Tensor) -> torch.Tensor:
        """Replay a bucket's graph over ``inputs`` (size,) int64 of the host: logits (T, vocab_size), until the next."""
        captured = self._captured[bucket]
        captured.inputs.copy_(inputs, non_blocking=True)
        captured.graph.replay()
        return captured.logits

    def _capture(self, bucket: Bucket) -> _Captured:
        inputs = torch.zeros(bucket.shape.size, dtype=torch.int64, device=self._device)
        batch = KernelBatch.over(inputs, bucket.shape)
        batch.slots.fill_(-1)  # nothing is stored, and items of no rows attend to nothing
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):  # kernels are compiled and workspaces made before the capture
            self._forward(batch, bucket)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads of the actor may use the device meanwhile, transformers' own generate for one.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._forward(batch, bucket)
        return _Captured(graph, inputs, logits)


def padded(count: int) -> int:
    """The number of tokens, or of sequences, that a bucket for ``count`` of them has."""
    step = next((step for limit, step in _ROUNDING if count <= limit), count)
    return -(-count // step) * step
