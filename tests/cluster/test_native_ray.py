"""Transformers' own ``generate`` in a real target actor: beside streams, over its death, and given up half-way."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from actors.config import RouterConfig, WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from cluster.config import ClusterConfig, PoolConfig
from cluster.model import ClusterModel
from tests.cluster.fakes import tiny_llama


class Slow(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return scores


class Recorder:
    def __init__(self) -> None:
        self.values: list[Any] = []
        self.began = threading.Event()

    def put(self, value: torch.Tensor) -> None:
        self.values.append(value.tolist())
        if len(self.values) > 3:
            self.began.set()

    def end(self) -> None:
        self.values.append("end")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("native")
    found = tiny_llama(folder)
    found.folder = folder
    return found


@pytest.fixture(scope="module")
def model(local_ray: None, reference: Any) -> Iterator[ClusterModel]:
    folder: Path = reference.folder
    worker = WorkerConfig(
        model=ModelConfig(model=str(folder)), engine=EngineConfig(num_blocks=64), num_threads=1, num_cpus=0
    )
    config = ClusterConfig(name="native", target=PoolConfig(worker=worker), router=RouterConfig(report_interval=0.3))
    with ClusterModel.from_config(config) as found:
        yield found


IDS = torch.tensor([[5, 6, 7, 8]])


def test_beams_and_streams_side_by_side(reference: Any, model: ClusterModel) -> None:
    stream: list[Any] = []
    thread = threading.Thread(target=lambda: stream.append(model.generate(IDS, max_new_tokens=40, eos_token_id=None)))
    thread.start()
    beams: Any = model.generate(IDS, max_new_tokens=20, num_beams=4, return_dict_in_generate=True, output_scores=True)
    thread.join()
    expected = reference.generate(IDS, max_new_tokens=20, num_beams=4, return_dict_in_generate=True, output_scores=True)
    assert beams.sequences.equal(expected.sequences)
    assert torch.allclose(beams.sequences_scores, expected.sequences_scores, atol=1e-4)
    assert torch.allclose(torch.stack(beams.scores), torch.stack(expected.scores), atol=1e-4)
    assert stream[0].equal(reference.generate(IDS, max_new_tokens=40, eos_token_id=None))


def test_an_assistant_of_the_callers_own_crosses_once(reference: Any, model: ClusterModel) -> None:
    expected = reference.generate(IDS, max_new_tokens=12)
    for _ in range(2):
        actual: Any = model.generate(IDS, max_new_tokens=12, assistant_model=reference)
        assert actual.equal(expected)


def test_a_call_outlives_its_target(reference: Any, model: ClusterModel) -> None:
    """What the streamer has had before the target's death does not come again."""
    recorder = Recorder()
    results: list[Any] = []
    arguments: dict[str, Any] = {"max_new_tokens": 30, "do_sample": True, "top_k": 5, "eos_token_id": None}
    arguments["logits_processor"] = LogitsProcessorList([Slow()])
    thread = threading.Thread(
        target=lambda: results.append(model.generate(IDS, seed=4, streamer=recorder, **arguments))
    )
    thread.start()
    assert recorder.began.wait(60)
    os.kill(next(w.info.pid for w in model.stats().workers if w.is_alive), signal.SIGKILL)
    thread.join(120)
    torch.manual_seed(4)
    expected = reference.generate(IDS, **arguments)
    assert results[0].equal(expected)
    assert recorder.values == [IDS.tolist(), *([token] for token in expected[0, 4:].tolist()), "end"]


def test_searches_begin_again_where_their_target_dies(reference: Any, model: ClusterModel) -> None:
    """They run in the engine, and need more blocks than it has."""
    ids = torch.arange(4, 28).view(8, 3)
    arguments: dict[str, Any] = {"max_new_tokens": 100, "num_beams": 4, "eos_token_id": None, "pad_token_id": 0}
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(model.generate(ids, return_dict_in_generate=True, **arguments))
    )
    thread.start()
    while not model.stats().num_requests:
        time.sleep(0.01)
    os.kill(next(w.info.pid for w in model.stats().workers if w.is_alive), signal.SIGKILL)
    assert thread.is_alive()
    thread.join(120)
    expected = reference.generate(ids, return_dict_in_generate=True, output_scores=True, **arguments)
    assert results[0].sequences.equal(expected.sequences)
    assert torch.allclose(results[0].sequences_scores, expected.sequences_scores, atol=1e-4)


def test_a_call_that_is_given_up_leaves_the_target_to_others(model: ClusterModel) -> None:
    class Stops(Recorder):
        def put(self, value: torch.Tensor) -> None:
            super().put(value)
            if len(self.values) > 2:
                raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        model.generate(
            IDS,
            max_new_tokens=100,
            eos_token_id=None,
            streamer=Stops(),
            logits_processor=LogitsProcessorList([Slow()] * 40),  # three minutes, were it not given up
        )
    after: Any = model.generate(IDS, max_new_tokens=4, num_beams=2)
    assert after.shape[1] <= 8
    assert time.monotonic() - begin < 100
