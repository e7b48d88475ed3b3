"""One target, two pools of drafts and prompt lookup on real actors: chosen by name, and asked themselves."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from actors.config import RouterConfig, WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.errors import ConfigError, RequestError
from actors.status import ClusterStats
from cluster.config import ClusterConfig, PoolConfig
from cluster.model import ClusterModel
from tests.conformance.vocabularies import make_draft, make_foreign_draft, make_target

NUM_NEW = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drafts")
    target = make_target(folder / "target")
    make_draft(folder / "default", target)
    make_foreign_draft(folder / "foreign", target)
    return folder


def pool(path: Path) -> PoolConfig:
    engine = EngineConfig(block_size=16, num_blocks=128)
    return PoolConfig(worker=WorkerConfig(model=ModelConfig(model=str(path)), engine=engine, num_threads=1, num_cpus=0))


@pytest.fixture(scope="module")
def model(local_ray: None, folder: Path) -> Iterator[ClusterModel]:
    config = ClusterConfig(
        name="tiny",
        target=pool(folder / "target"),
        draft=pool(folder / "default"),
        drafts={"foreign": pool(folder / "foreign")},
        router=RouterConfig(num_assistant_tokens=4, report_interval=0.2),
    )
    with ClusterModel.from_config(config) as found:
        yield found


@pytest.fixture(scope="module")
def prompts(model: ClusterModel) -> torch.Tensor:
    ids: torch.Tensor = model.tokenizer(["ab cd ef ab cd", "kk ll mm kk ll"], return_tensors="pt").input_ids
    return ids


@pytest.fixture(scope="module")
def expected(model: ClusterModel, prompts: torch.Tensor) -> dict[bool, list[list[int]]]:
    """Tokens without a draft, greedy and sampled."""
    return {is_sampled: generate(model, prompts, is_sampled, assistant_model="none") for is_sampled in (False, True)}


def generate(model: ClusterModel, ids: torch.Tensor, is_sampled: bool, **kwargs: Any) -> list[list[int]]:
    sampling: dict[str, Any] = {"do_sample": True, "seed": 5, "temperature": 0.8} if is_sampled else {}
    found: Any = model.generate(ids, max_new_tokens=NUM_NEW, eos_token_id=None, **sampling, **kwargs)
    rows: list[list[int]] = found.tolist()
    return rows


def until(model: ClusterModel, is_so: Callable[[ClusterStats], bool]) -> ClusterStats:
    """The cluster's state once its workers have reported that something is so."""
    deadline = time.monotonic() + 20
    while not is_so(stats := model.stats()):
        assert time.monotonic() < deadline, stats
        time.sleep(0.05)
    return stats


def num_written(stats: ClusterStats, name: str) -> int:
    """Tokens that a draft has written."""
    return sum(worker.stats.num_generated_tokens for worker in stats.workers if worker.info.draft_name == name)


def test_plain_decoding_is_transformers(
    model: ClusterModel, prompts: torch.Tensor, expected: dict[bool, list[list[int]]], folder: Path
) -> None:
    reference: Any = AutoModelForCausalLM.from_pretrained(folder / "target")
    assert expected[False] == reference.generate(prompts, max_new_tokens=NUM_NEW, eos_token_id=None).tolist()


@pytest.mark.parametrize("is_sampled", [False, True])
@pytest.mark.parametrize("name", [None, "foreign"])
def test_the_draft_that_is_asked_for_writes_ahead(
    model: ClusterModel,
    prompts: torch.Tensor,
    expected: dict[bool, list[list[int]]],
    folder: Path,
    name: str | None,
    is_sampled: bool,
) -> None:
    pool_name = name or str(folder / "default")
    before = model.stats()
    deadline = time.monotonic() + 60
    while (after := model.stats()).num_draft_tokens == before.num_draft_tokens:  # no target waits for a draft's start
        assert time.monotonic() < deadline, after
        assert generate(model, prompts, is_sampled, assistant_model=name) == expected[is_sampled]
    until(model, lambda stats: num_written(stats, pool_name) > num_written(before, pool_name))
    drafted = after.num_draft_tokens - before.num_draft_tokens
    accepted = after.num_accepted_tokens - before.num_accepted_tokens
    if name is not None:
        assert accepted > 0.5 * drafted, "it has the target's own weights"


def test_prompt_lookup_needs_none_of_them(
    model: ClusterModel, prompts: torch.Tensor, expected: dict[bool, list[list[int]]]
) -> None:
    before = model.stats()
    assert generate(model, prompts, True, prompt_lookup_num_tokens=3, num_assistant_tokens=3) == expected[True]
    after = until(model, lambda stats: stats.drafting.num_lookup_hits > before.drafting.num_lookup_hits)
    assert after.num_draft_tokens > before.num_draft_tokens


def test_a_draft_is_a_model_of_its_own(model: ClusterModel, folder: Path) -> None:
    reference: Any = AutoModelForCausalLM.from_pretrained(folder / "foreign")
    with model.draft("foreign") as foreign:
        ids = foreign.tokenizer(["ab cd ef", "gh"], return_tensors="pt", padding=True)
        assert foreign.config.vocab_size != model.config.vocab_size
        modes: tuple[dict[str, Any], ...] = ({}, {"num_beams": 3})
        for mode in modes:
            want = reference.generate(**ids, max_new_tokens=8, **mode)
            found: Any = foreign.generate(**ids, max_new_tokens=8, **mode)
            assert found.tolist() == want.tolist(), mode
        prompt = model.tokenizer("ab", return_tensors="pt").input_ids
        by_model: Any = model.generate(prompt, max_new_tokens=4, assistant_model=foreign)
        assert by_model.shape[0] == 1
    with pytest.raises(ConfigError, match="foreign"):
        model.draft("third")


def test_names_that_are_not_there_are_refused_with_those_that_are(model: ClusterModel, prompts: torch.Tensor) -> None:
    with pytest.raises(RequestError, match="foreign, none"):
        model.generate(prompts, assistant_model="third")


def test_the_command_line_chooses_a_draft_and_asks_one(model: ClusterModel) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        words = [sys.executable, "-m", "cluster.cli", *arguments]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)

    ahead = command("generate", "ab cd", "--assistant-model", "foreign", "--max-new-tokens", "5")
    assert ahead.returncode == 0, ahead.stderr
    own = command("generate", "ab cd", "--model", "foreign", "--max-new-tokens", "5")
    assert own.stdout == ahead.stdout, "it has the target's own weights"
