"""The synthetic pair, at toy size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from cluster.demo.acceptance import load, measure_acceptance, write
from cluster.demo.synthetic import SyntheticConfig, synthetic_pair

TINY = SyntheticConfig.tiny()


def test_the_seed_is_the_pair(tmp_path: Path) -> None:
    one, two = synthetic_pair(TINY, tmp_path / "one"), synthetic_pair(TINY, tmp_path / "two")
    other = synthetic_pair(SyntheticConfig.tiny(seed=1), tmp_path / "one")
    weights = [path / "model.safetensors" for path in (one.target_path, two.target_path, other.target_path)]
    assert weights[0].read_bytes() == weights[1].read_bytes() != weights[2].read_bytes()


def test_a_pair_is_made_once(tmp_path: Path) -> None:
    first = synthetic_pair(TINY, tmp_path)
    before = (first.draft_path / "model.safetensors").stat().st_mtime_ns
    assert synthetic_pair(TINY, tmp_path) == first
    assert (first.draft_path / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == [TINY.key]


def test_the_cache_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path))
    assert synthetic_pair(TINY).target_path == tmp_path / "synthetic" / TINY.key / "target"


def test_without_damped_layers_the_draft_is_exact(tmp_path: Path) -> None:
    pair = synthetic_pair(dataclasses.replace(TINY, damping=0.0), tmp_path)
    target, draft = load(pair.target_path, "none"), load(pair.draft_path, "none")
    assert len(target.model.layers) == 3 and len(draft.model.layers) == 1
    prompts = torch.randint(TINY.vocab, (2, 8), generator=torch.Generator().manual_seed(0))
    assert measure_acceptance(target, draft, prompts, num_tokens=24).per_token > 0.95


def test_text_runs_on_without_a_loop(tmp_path: Path) -> None:
    target = load(synthetic_pair(TINY, tmp_path).target_path, "none")
    assert target.generation_config is not None and target.generation_config.eos_token_id is None
    ids = write(target, torch.tensor([[1, 2, 3, 4]]), 64)
    assert len(set(ids[0, 4:].tolist())) > 24


@pytest.mark.parametrize("change", [{"draft_layers": 0}, {"draft_layers": 4}, {"kv_heads": 3}, {"damping": -1.0}])
def test_impossible_configurations_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        dataclasses.replace(TINY, **change)  # type: ignore[arg-type]
