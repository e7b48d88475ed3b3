"""Calls with beams run in the engine and return what ``model.generate`` returns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput

from actors.config import WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.engine import Engine
from actors.engine.errors import GenerationError
from actors.engine.loading import load_model
from cluster.config import ClusterConfig, PoolConfig
from cluster.generation import sequence_seed
from cluster.generation_client import ModelClient
from cluster.model import ClusterModel
from tests.cluster.fakes import PAD, ToyClient, cluster_model, tiny_llama
from tests.conformance.engine_client import EngineClient
from tests.counted_beams import counted_noise

ENGINE = EngineConfig(block_size=4, num_blocks=128)
MODES: dict[str, dict[str, Any]] = {
    "beam search": {"num_beams": 3},
    "all returned": {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.4},
    "early stopping": {"num_beams": 2, "early_stopping": True, "no_repeat_ngram_size": 2},
    "static cache": {"num_beams": 2, "cache_implementation": "static"},
    "no eos": {"num_beams": 2, "eos_token_id": None},
    "eos is padding": {"num_beams": 3, "num_return_sequences": 2, "pad_token_id": 2, "length_penalty": -2.0},
    "other padding": {"num_beams": 3, "num_return_sequences": 2, "pad_token_id": 9, "eos_token_id": [2, 5, 6, 14, 20]},
    "lengths": {"num_beams": 2, "min_length": 9, "max_length": 12, "max_new_tokens": None},
    "whole numbers": {"num_beams": 2, "length_penalty": 1},
}


def prompts(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([[5, 6, 7, 5, 6, 9], [PAD, PAD, 11, 4, 8, 3]])[:rows]
    return ids, (ids != PAD).long()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("beams")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return tiny_llama(folder)


@pytest.fixture
def client(reference: Any, folder: Path) -> EngineClient:
    config = ModelConfig(model=str(folder), dtype="float32")
    return EngineClient(Engine(load_model(config, ENGINE), ENGINE))


@pytest.fixture
def model(folder: Path, client: EngineClient) -> Iterator[ClusterModel]:
    async def connect() -> ModelClient:
        return client

    pool = PoolConfig(worker=WorkerConfig(model=ModelConfig(model=str(folder))))
    with ClusterModel(ClusterConfig(name="beams", target=pool), connect) as found:
        yield found


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_same_sequences_scores_and_indices(
    reference: Any, model: ClusterModel, client: EngineClient, mode: str, rows: int
) -> None:
    ids, mask = prompts(rows)
    arguments = {"attention_mask": mask, "max_new_tokens": 9, **MODES[mode]}
    want: Any = reference.generate(ids, return_dict_in_generate=True, output_scores=True, **arguments)
    got: Any = model.generate(ids, return_dict_in_generate=True, **arguments)
    assert GenerateBeamDecoderOnlyOutput in type(got).__mro__
    assert list(got) == ["sequences", "sequences_scores", "beam_indices"]
    for name in ("sequences", "beam_indices"):
        assert got[name].tolist() == want[name].tolist()
        assert got[name].dtype == want[name].dtype
    assert torch.allclose(got.sequences_scores, want.sequences_scores, atol=1e-4)
    assert got.seed is None
    bare: Any = model.generate(ids, **arguments)
    assert bare.equal(got.sequences)
    assert client.num_native == 0


def test_sampled_beams_follow_their_seed(reference: Any, model: ClusterModel, client: EngineClient) -> None:
    ids, mask = prompts(2)
    arguments: dict[str, Any] = {"attention_mask": mask, "do_sample": True, "num_beams": 3, "max_new_tokens": 6}
    got: Any = model.generate(ids, seed=11, return_dict_in_generate=True, **arguments)
    assert got.seed == 11
    with counted_noise(reference, [11, sequence_seed(11, 1)], [0, 2]):
        want = reference.generate(ids, **arguments)
    assert got.sequences.tolist() == want.tolist()
    torch.manual_seed(5)
    first: Any = model.generate(ids, return_dict_in_generate=True, **arguments)
    torch.manual_seed(5)
    again: Any = model.generate(ids, return_dict_in_generate=True, **arguments)
    assert first.seed == again.seed
    assert first.sequences.equal(again.sequences)
    state = torch.get_rng_state()
    model.generate(ids, num_beams=2, max_new_tokens=2)
    assert state.equal(torch.get_rng_state()), "a search that draws nothing leaves torch's generator alone"
    assert client.num_native == 0


def test_defaults_of_the_model_hold(reference: Any, model: ClusterModel) -> None:
    ids, mask = prompts(1)
    model.generation_config.update(num_beams=3, max_new_tokens=4)
    want = reference.generate(ids, attention_mask=mask, num_beams=3, max_new_tokens=4)
    assert model.generate(ids, attention_mask=mask).tolist() == want.tolist()  # type: ignore[union-attr]
    config = GenerationConfig(num_beams=2, length_penalty=0.2)
    want = reference.generate(ids, attention_mask=mask, generation_config=config, max_new_tokens=4)
    got: Any = model.generate(ids, attention_mask=mask, generation_config=config)
    assert got.tolist() == want.tolist()


@pytest.mark.parametrize(
    "arguments",
    [
        {"output_scores": True, "return_dict_in_generate": True},
        {"encoder_repetition_penalty": 1.5},
        {"prefix_allowed_tokens_fn": lambda batch_id, ids: [4, 5, 6, 7]},
    ],
)
def test_what_else_is_asked_for_stays_transformers_own(
    reference: Any, model: ClusterModel, client: EngineClient, arguments: dict[str, Any]
) -> None:
    ids, mask = prompts(1)
    want = reference.generate(ids, attention_mask=mask, num_beams=2, max_new_tokens=5, **arguments)
    got: Any = model.generate(ids, attention_mask=mask, num_beams=2, max_new_tokens=5, **arguments)
    if isinstance(want, torch.Tensor):
        assert got.tolist() == want.tolist()
    else:
        assert got.sequences.tolist() == want.sequences.tolist()
        assert len(got.scores) == len(want.scores)
    assert client.num_native == 1


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"num_return_sequences": 3}, "num_return_sequences"),
        ({"early_stopping": "maybe"}, "early_stopping"),
        ({"length_penalty": "long"}, "length_penalty"),
        ({"num_bems": 2}, "num_bems"),
    ],
)
def test_refusals_name_the_field(reference: Any, model: ClusterModel, arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):  # of transformers' own checks, or a RequestError
        model.generate(prompts(1)[0], num_beams=2, max_new_tokens=3, **arguments)


def test_a_failing_row_fails_the_call(folder: Path, reference: Any) -> None:
    model = cluster_model(folder, ToyClient(model=reference, fail="the search is lost"))
    with model, pytest.raises(GenerationError, match="the search is lost"):
        model.generate(prompts(1)[0], num_beams=2, max_new_tokens=9)
