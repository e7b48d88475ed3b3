"""Modes that transformers' own code runs in the target: same results, errors and streams as ``model.generate``."""

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    WatermarkingConfig,
)
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput

from actors.engine.declared_call import DeclaredCall
from actors.engine.errors import RequestError
from actors.engine.native_generation import NativeCall
from actors.native_client import Result
from actors.native_job import Tokens
from cluster.deferred import deferred_output
from cluster.model import ClusterModel
from tests.cluster.fakes import PAD, VOCAB_SIZE, ToyClient, cluster_model, tiny_llama


class Ban(LogitsProcessor):
    def __init__(self, token_id: int) -> None:
        self.token_id = token_id

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, self.token_id] = -torch.inf
        return scores


class Broken(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("seven by nothing")


class AfterThree(StoppingCriteria):
    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.width + 3)


class Recorder:
    def __init__(self) -> None:
        self.values: list[Any] = []

    def put(self, value: torch.Tensor) -> None:
        self.values.append(value.tolist())

    def end(self) -> None:
        self.values.append("end")


def only_even(batch_id: int, ids: torch.Tensor) -> list[int]:
    return list(range(4, VOCAB_SIZE, 2))


def own_loop(model: Any, input_ids: torch.Tensor, logits_processor: Any, stopping_criteria: Any, **kwargs: Any) -> Any:
    """The simplest decoding loop that there is."""
    for _ in range(3):
        input_ids = torch.cat([input_ids, model(input_ids).logits[:, -1:].argmax(-1)], dim=1)
    return input_ids


MODES: dict[str, dict[str, Any]] = {
    "guidance": {"guidance_scale": 1.5, "negative_prompt_ids": torch.tensor([[4, 9], [7, 8]])},
    "watermark": {"watermarking_config": WatermarkingConfig(bias=4.0)},
    "processor": {"logits_processor": LogitsProcessorList([Ban(5)])},
    "processor, sampled": {"logits_processor": LogitsProcessorList([Ban(5)]), "do_sample": True},
    "criterion": {"stopping_criteria": StoppingCriteriaList([AfterThree(6)])},
    "allowed tokens": {"prefix_allowed_tokens_fn": only_even},
    "own loop": {"custom_generate": own_loop},
}


def prompts(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([[5, 6, 7, 5, 6, 9], [PAD, PAD, 11, 4, 8, 3]])[:rows]
    return ids, (ids != PAD).long()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return tiny_llama(folder)


@pytest.fixture
def client(reference: Any) -> ToyClient:
    return ToyClient(model=reference)


@pytest.fixture
def model(folder: Path, client: ToyClient) -> Iterator[ClusterModel]:
    with cluster_model(folder, client) as found:
        yield found


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_same_tokens(reference: Any, model: ClusterModel, client: ToyClient, mode: str, rows: int) -> None:
    ids, mask = prompts(rows)
    arguments = {"attention_mask": mask, "max_new_tokens": 9, **MODES[mode]}
    if "negative_prompt_ids" in arguments:
        arguments["negative_prompt_ids"] = arguments["negative_prompt_ids"][:rows]
    torch.manual_seed(11)
    expected = reference.generate(ids, **arguments)
    actual = model.generate(ids, seed=11, **arguments)
    assert isinstance(actual, torch.Tensor)
    assert actual.tolist() == expected.tolist()
    assert len(client.calls) == 1, "the engine is not what should have run this"


def test_scores_and_states_have_transformers_shapes(reference: Any, model: ClusterModel) -> None:
    ids, mask = prompts(2)
    wishes = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
    arguments: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 4, "return_dict_in_generate": True}
    arguments |= dict.fromkeys(wishes, True)
    reference.set_attn_implementation("eager")
    try:
        expected = reference.generate(ids, **arguments)
    finally:
        reference.set_attn_implementation("sdpa")
    actual: Any = model.generate(ids, **arguments)
    assert type(actual).__mro__[2] is GenerateDecoderOnlyOutput
    for name in ("scores", "logits"):
        assert isinstance(actual[name], tuple)
        assert torch.allclose(torch.stack(actual[name]), torch.stack(expected[name]), atol=1e-5)
    for name in ("attentions", "hidden_states"):
        ours, theirs = getattr(actual, name), getattr(expected, name)
        assert [len(step) for step in ours] == [len(step) for step in theirs]
        assert all(
            torch.allclose(a, b, atol=1e-5)
            for x, y in zip(ours, theirs, strict=True)
            for a, b in zip(x, y, strict=True)
        )
    assert actual.past_key_values.get_seq_length() == expected.past_key_values.get_seq_length()
    assert list(actual.keys()) == list(expected.keys())


def test_beams_have_their_scores(reference: Any, model: ClusterModel) -> None:
    ids, mask = prompts(2)
    arguments: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 5, "num_beams": 3, "output_scores": True}
    expected = reference.generate(ids, return_dict_in_generate=True, **arguments)
    actual: Any = model.generate(ids, return_dict_in_generate=True, **arguments)
    assert type(actual).__mro__[2] is GenerateBeamDecoderOnlyOutput
    assert torch.allclose(actual.sequences_scores, expected.sequences_scores, atol=1e-5)
    ours = reference.compute_transition_scores(actual.sequences, actual.scores, actual.beam_indices)
    theirs = reference.compute_transition_scores(expected.sequences, expected.scores, expected.beam_indices)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_local_assistant_changes_nothing(reference: Any, model: ClusterModel, client: ToyClient) -> None:
    ids, mask = prompts(1)
    expected = reference.generate(ids, attention_mask=mask, max_new_tokens=9)
    actual: Any = model.generate(ids, attention_mask=mask, max_new_tokens=9, assistant_model=reference)
    assert actual.tolist() == expected.tolist()
    assert len(client.calls) == 1


def test_the_cluster_itself_as_assistant_means_its_drafts(model: ClusterModel, client: ToyClient) -> None:
    model.generate(prompts(1)[0], max_new_tokens=2, assistant_model=model)
    assert client.calls == []
    assert len(client.requests) == 1


def test_an_assistant_by_name_travels_with_the_request(model: ClusterModel, client: ToyClient) -> None:
    model.generate(prompts(1)[0], max_new_tokens=2, assistant_model="none")
    assert client.calls == []
    assert client.requests[0].params.assistant_model == "none"


def test_unknown_assistants_are_named(model: ClusterModel) -> None:
    with pytest.raises(RequestError, match="none"):
        model.generate(prompts(1)[0], max_new_tokens=2, assistant_model="gpt-17")


def test_an_error_in_a_callable_comes_back_with_its_traceback(model: ClusterModel, client: ToyClient) -> None:
    with pytest.raises(ZeroDivisionError, match="seven") as caught:
        model.generate(prompts(1)[0], max_new_tokens=3, logits_processor=LogitsProcessorList([Broken()]))
    assert "in __call__" in "".join(caught.value.__notes__)
    again: Any = model.generate(prompts(1)[0], max_new_tokens=3, logits_processor=LogitsProcessorList([Ban(5)]))
    assert again.shape[1] <= 9


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_beams": 2, "num_return_sequences": 3},
        {"num_beams": 2, "bogus": 1},
        {"num_beams": 2, "max_new_tokens": -1},
        {"num_beams": 2, "early_stopping": "maybe"},
        {"num_beams": 0},
        {"num_beams": 2, "streamer": Recorder()},
        {"output_scores": True, "return_dict_in_generate": True, "max_length": 3, "max_new_tokens": None},
        {"guidance_scale": 1.5, "negative_prompt_ids": torch.zeros(3, 2, dtype=torch.long)},
        {"assistant_model": None, "prompt_lookup_num_tokens": 2, "use_cache": False},
        {"prefix_allowed_tokens_fn": lambda batch_id, ids: []},
    ],
)
def test_same_refusals(reference: Any, model: ClusterModel, arguments: dict[str, Any]) -> None:
    ids, mask = prompts(1)
    arguments = {"attention_mask": mask, "max_new_tokens": 3, **arguments}
    with pytest.raises(Exception) as theirs:
        reference.generate(ids, **arguments)
    with pytest.raises(type(theirs.value)):
        model.generate(ids, **arguments)


def test_streamer_gets_the_same_calls(reference: Any, model: ClusterModel) -> None:
    ids, mask = prompts(1)
    arguments: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 5, "prefix_allowed_tokens_fn": only_even}
    theirs, ours = Recorder(), Recorder()
    reference.generate(ids, streamer=theirs, **arguments)
    model.generate(ids, streamer=ours, **arguments)
    assert ours.values == theirs.values


def test_sampled_calls_follow_torchs_seed_and_leave_greedy_ones_alone(model: ClusterModel) -> None:
    ids, _ = prompts(1)
    arguments: dict[str, Any] = {
        "do_sample": True,
        "logits_processor": LogitsProcessorList([Ban(5)]),
        "max_new_tokens": 6,
        "return_dict_in_generate": True,
    }
    torch.manual_seed(5)
    first: Any = model.generate(ids, **arguments)
    torch.manual_seed(5)
    again: Any = model.generate(ids, **arguments)
    assert first.seed == again.seed is not None
    assert first.sequences.equal(again.sequences)
    state = torch.get_rng_state()
    model.generate(ids, logits_processor=LogitsProcessorList([Ban(5)]), max_new_tokens=2)
    assert state.equal(torch.get_rng_state())


def test_large_fields_are_fetched_when_they_are_read() -> None:
    fetched: list[str] = []

    def fetch(name: str) -> Any:
        fetched.append(name)
        return (torch.ones(1, 2),)

    sequences = torch.zeros(1, 1, dtype=torch.long)
    output = deferred_output(GenerateDecoderOnlyOutput, {"sequences": sequences}, ("scores", "logits"), fetch)
    assert output.sequences is sequences
    assert output.attentions is None
    assert fetched == []
    assert output.scores[0].shape == (1, 2)
    assert output["scores"] is output.scores is output[1]
    assert fetched == ["scores", "logits"]  # an index asks for the tuple of all fields
    assert [name for name, _ in output.items()] == ["sequences", "scores", "logits"]
    with pytest.raises(KeyError):
        output["attentions"]


def test_a_caller_fetches_only_what_it_reads(folder: Path, reference: Any) -> None:
    fetched: list[str] = []

    class Counting(ToyClient):
        async def run_native(self, call: NativeCall | DeclaredCall, model: str) -> AsyncIterator[Tokens | Result]:
            async for item in super().run_native(call, model):
                yield Result(item.output, partial(self.fetch, item)) if isinstance(item, Result) else item

        def fetch(self, result: Result, name: str) -> Any:
            fetched.append(name)
            return result.fetch(name)

    wishes: dict[str, Any] = dict.fromkeys(("output_hidden_states", "output_logits", "return_dict_in_generate"), True)
    with cluster_model(folder, Counting(model=reference)) as model:
        output: Any = model.generate(prompts(2)[0], max_new_tokens=4, **wishes)
        assert output.sequences.shape[0] == 2
        assert list(output.keys())[:3] == ["sequences", "logits", "hidden_states"]
        assert fetched == []
        assert len(output.hidden_states) == 4
        assert len(output.hidden_states[0]) == 3
        assert fetched == ["hidden_states"]
        states = model(prompts(1)[0], output_hidden_states=True)
        assert states.logits.shape == (1, 6, VOCAB_SIZE)
        assert fetched == ["hidden_states", "logits"]
        plain: Any = model.generate(prompts(1)[0], max_new_tokens=2, return_dict_in_generate=True)
        assert plain.past_key_values.get_seq_length() == plain.sequences.shape[1] - 1
        assert fetched == ["hidden_states", "logits", "past_key_values"]
