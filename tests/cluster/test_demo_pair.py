"""The embedded pair on real actors, through the Python face and the command line."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from actors.engine.catalog import resolve_model
from cluster.model import ClusterModel

PROMPTS = ["It was a dark night", "She said that she had never in her life been so", "Sir,"]


@pytest.fixture(scope="module")
def model() -> Iterator[ClusterModel]:
    with ClusterModel.from_pretrained(
        "demo", quantization="none", assistant_quantization="none", dtype="float32"
    ) as model:
        yield model


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    address = ray.get_runtime_context().gcs_address
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"RAY_ADDRESS": address},
    )


def test_greedy_tokens_are_those_of_transformers(model: ClusterModel) -> None:
    reference: Any = AutoModelForCausalLM.from_pretrained(resolve_model("demo"), dtype=torch.float32)
    batch = model.tokenizer(PROMPTS, return_tensors="pt", padding=True)
    expected = reference.generate(**batch, max_new_tokens=24, do_sample=False)
    actual: Any = model.generate(**batch, max_new_tokens=24, do_sample=False)
    assert actual.tolist() == expected.tolist()


def test_stats_tell_of_workers_and_drafts(model: ClusterModel) -> None:
    ids = model.tokenizer(PROMPTS[1], return_tensors="pt").input_ids
    model.generate(ids, max_new_tokens=30, do_sample=False)
    deadline = time.monotonic() + 10
    while not (stats := model.stats()).num_draft_tokens and time.monotonic() < deadline:
        time.sleep(0.1)  # workers report on a beat
    assert stats.num_draft_tokens >= stats.num_accepted_tokens > 0
    assert {worker.info.role for worker in stats.workers} == {"target", "draft"}


def test_a_seed_gives_the_same_tokens_alone_and_in_a_batch(model: ClusterModel) -> None:
    batch = model.tokenizer(PROMPTS, return_tensors="pt", padding=True)
    torch.manual_seed(11)
    crowd: Any = model.generate(
        **batch, do_sample=True, temperature=1.0, max_new_tokens=20, eos_token_id=None, return_dict_in_generate=True
    )
    first = model.tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    alone: Any = model.generate(
        first, do_sample=True, temperature=1.0, max_new_tokens=20, eos_token_id=None, seed=crowd.seed
    )
    assert alone[0, -20:].tolist() == crowd.sequences[0, -20:].tolist()


def test_the_command_line_finds_the_cluster(model: ClusterModel) -> None:
    again = [command("generate", PROMPTS[0], "--seed", "5", "--max-new-tokens", "12") for _ in range(2)]
    assert again[0].returncode == 0, again[0].stderr
    assert again[0].stdout == again[1].stdout
    assert again[0].stdout.startswith(PROMPTS[0])
    assert "tokens/s" in again[0].stderr
    assert "seed 5" in again[0].stderr
    other = command("generate", "x", "--model", "other/model")
    assert other.returncode == 1
    assert "serves 'demo', 'demo-draft', not 'other/model'" in other.stderr
    status = command("status")
    assert status.returncode == 0, status.stderr
    assert "draft length" in status.stdout
    assert status.stdout.count("alive") == 2


def test_a_second_model_connects_and_leaves_the_cluster_running(model: ClusterModel) -> None:
    ids = model.tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    with ClusterModel.connect() as second:
        assert second.cluster_config == model.cluster_config
        there: Any = second.generate(ids, max_new_tokens=8, do_sample=False)
    here: Any = model.generate(ids, max_new_tokens=8, do_sample=False)
    assert there.equal(here)
