"""Models and engines that rows share: one shape at a time, built once."""

import gc
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import LlamaForCausalLM

from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from cluster.bench.measure import Report
from tests.gpu.acceptance import calibrate
from tests.gpu.benchmarks.bandwidth import read_bandwidth
from tests.gpu.benchmarks.device import Device
from tests.gpu.benchmarks.options import DRAFT_LAYERS, DRAFT_LENGTHS, Options
from tests.gpu.random_models import SHAPES, as_loaded, random_model, read_bytes, share

BLOCK_SIZE = 32
MAX_BATCH_LENGTH = 640  # tokens of one of many streams
NUM_BLOCKS_OF_ONE = 64  # 2048 tokens, for models that are measured with one stream


class Pair:
    """A target and a draft of its first layers, as our engines and as transformers have them.

    Engines may replace modules of the models that they get; transformers' models have modules of their own around the
    same tensors. Everything is made when it is first asked for; transformers' models and the damping before engines.
    """

    def __init__(self, shape: str, options: Options, device: Device) -> None:
        self.shape = shape
        self.k = DRAFT_LENGTHS[shape]
        self.facts: dict[str, Any] = {"shape": shape, "draft_layers": DRAFT_LAYERS[shape], "k": self.k}
        self._device = device
        self._num_streams = options.num_streams if shape == options.shape else 1
        started = time.perf_counter()
        before = device.num_bytes()
        model: Any = random_model(SHAPES[shape], device.torch)
        draft = share(model, DRAFT_LAYERS[shape], quantized_head=True)
        device.synchronize()
        self.facts["seconds_to_make"] = time.perf_counter() - started
        self.facts["model_bytes"] = device.num_bytes() - before
        self.facts["read_bytes"] = read_bytes(model)
        self.facts["draft_read_bytes"] = read_bytes(draft)
        started = time.perf_counter()
        damping, agreement = calibrate(model, draft, options.acceptance, 64 if options.is_rehearsal else 256)
        self.facts |= {"damping": damping, "agreement": agreement, "seconds_to_calibrate": _since(started)}
        self._model, self._draft_model = model, draft
        self.native: LlamaForCausalLM = share(model)
        self.native_draft: LlamaForCausalLM = share(model, DRAFT_LAYERS[shape])
        self.native_draft.lm_head = share(draft).lm_head

    @cached_property
    def target(self) -> Engine:
        """Our engine of the target."""
        num_blocks = NUM_BLOCKS_OF_ONE
        if self._num_streams > 1:
            num_blocks = max(num_blocks, self._num_streams * MAX_BATCH_LENGTH // BLOCK_SIZE)
        return self._engine("target", self._model, num_blocks, max(1, self._num_streams))

    @cached_property
    def draft(self) -> Engine:
        """Our engine of the draft."""
        return self._engine("draft", self._draft_model, NUM_BLOCKS_OF_ONE, 1)

    def _engine(self, role: str, model: LlamaForCausalLM, num_blocks: int, max_num_seqs: int) -> Engine:
        before, started = self._device.num_free_bytes(), time.perf_counter()
        config = EngineConfig(
            block_size=BLOCK_SIZE, num_blocks=num_blocks, max_num_seqs=max_num_seqs, prefix_cache=False
        )
        engine = Engine(as_loaded(model, num_blocks), config)
        self._device.synchronize()
        self.facts[f"{role}_engine"] = {
            "seconds_to_build": _since(started),
            "bytes_taken": before - self._device.num_free_bytes(),
            "num_blocks": num_blocks,
            "max_num_seqs": max_num_seqs,
        }
        return engine


@dataclass
class Lab:
    """The device and what stands on it."""

    options: Options
    device: Device
    _pair: Pair | None = field(default=None, repr=False)
    _bandwidth: float | None = None

    def pair(self, shape: str) -> Pair:
        """The models of a shape; those of another are dropped first."""
        if self._pair is None or self._pair.shape != shape:
            self.clear()
            self._pair = Pair(shape, self.options, self.device)
        return self._pair

    def bandwidth(self) -> float:
        """Bytes a second that the device reads, measured once."""
        if self._bandwidth is None:
            self._bandwidth = max(read_bandwidth(self.device, repeats=5))
        return self._bandwidth

    def note_bandwidth(self, value: float) -> None:
        """Keep what was measured, in bytes a second."""
        self._bandwidth = value

    def clear(self) -> None:
        """Drop all models."""
        self._pair = None
        gc.collect()
        if self.device.is_cuda:
            torch.cuda.empty_cache()

    def report(self, name: str, what: str, pair: Pair | None = None) -> Report:
        """An empty report with the settings that every row has."""
        settings: dict[str, Any] = {"device": self.device.facts()}
        if pair is not None:
            settings["models"] = pair.facts
        report = Report(name=name, what=what, settings=settings)
        if self.options.is_rehearsal:
            report.notes.append("a rehearsal with a tiny model: the figures mean nothing")
        return report


def _since(started: float) -> float:
    return time.perf_counter() - started
