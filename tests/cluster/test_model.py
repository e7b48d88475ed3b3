import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.utils import GenerateDecoderOnlyOutput

from actors.engine.errors import ConfigError, GenerationError, RequestError
from cluster.generation import sequence_seed
from cluster.model import ClusterModel
from cluster.outputs import ClusterGenerateOutput
from tests.cluster.fakes import EOS, PAD, VOCAB_SIZE, FakeCluster, ToyClient, cluster_model, tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny-llama")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return tiny_llama(folder)


@pytest.fixture
def client(reference: Any) -> ToyClient:
    return ToyClient(reference)


@pytest.fixture
def model(folder: Path, client: ToyClient) -> Iterator[ClusterModel]:
    with cluster_model(folder, client) as model:
        yield model


def left_padded(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random prompts of these lengths and their mask, padded on the left."""
    generator = torch.Generator().manual_seed(sum(lengths))
    width = max(lengths)
    ids = torch.full((len(lengths), width), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, width - length :] = torch.randint(3, VOCAB_SIZE, (length,), generator=generator)
        mask[row, width - length :] = 1
    return ids, mask


def both(reference: Any, model: ClusterModel, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    return reference.generate(*args, **kwargs), model.generate(*args, **kwargs)


class Recorder:
    """A streamer that writes down what it gets."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def put(self, value: torch.Tensor) -> None:
        self.values.append(value.tolist())

    def end(self) -> None:
        self.values.append("end")


class TestSameAsTransformers:
    @pytest.mark.parametrize("lengths", [[5], [1, 9, 4], [7, 7, 3, 2, 12, 6]])
    def test_ragged_batches(self, reference: Any, model: ClusterModel, lengths: list[int]) -> None:
        ids, mask = left_padded(lengths)
        expected, actual = both(reference, model, ids, attention_mask=mask, max_new_tokens=24)
        assert actual.dtype == expected.dtype == torch.long
        assert actual.tolist() == expected.tolist()

    def test_rows_that_meet_eos_are_padded(self, reference: Any, model: ClusterModel) -> None:
        ids, mask = left_padded(list(range(1, 13)))
        first = reference.generate(ids, attention_mask=mask, max_new_tokens=1)[:, -1]
        eos = [EOS, int(first[0])]
        expected, actual = both(reference, model, ids, attention_mask=mask, max_new_tokens=16, eos_token_id=eos)
        assert actual.tolist() == expected.tolist()
        assert actual[0, ids.shape[1] + 1 :].tolist() == [PAD] * (actual.shape[1] - ids.shape[1] - 1)

    def test_all_rows_ended_early_gives_a_narrow_result(self, reference: Any, model: ClusterModel) -> None:
        ids, mask = left_padded([4, 6])
        first = reference.generate(ids, attention_mask=mask, max_new_tokens=1)[:, -1].tolist()
        expected, actual = both(reference, model, ids, attention_mask=mask, max_new_tokens=30, eos_token_id=first)
        assert actual.shape == expected.shape == (2, 7)
        assert actual.tolist() == expected.tolist()

    def test_mask_is_inferred_from_the_pad_token(self, reference: Any, model: ClusterModel) -> None:
        ids, _ = left_padded([3, 8])
        expected, actual = both(reference, model, ids, max_new_tokens=8)
        assert actual.tolist() == expected.tolist()

    def test_max_length_counts_the_padded_prompt(self, reference: Any, model: ClusterModel) -> None:
        ids, mask = left_padded([3, 8])
        arguments = {"attention_mask": mask, "max_length": 13, "eos_token_id": None, "pad_token_id": PAD}
        expected, actual = both(reference, model, ids, **arguments)
        assert actual.shape == (2, 13)
        assert actual.tolist() == expected.tolist()

    def test_min_length_holds_eos_back(self, reference: Any, model: ClusterModel) -> None:
        ids, mask = left_padded([4, 6])
        first = reference.generate(ids, attention_mask=mask, max_new_tokens=1)[:, -1].tolist()
        arguments = {"attention_mask": mask, "max_new_tokens": 12, "min_length": 9, "eos_token_id": first}
        expected, actual = both(reference, model, ids, **arguments)
        assert actual.tolist() == expected.tolist()

    def test_a_generation_config_and_arguments_over_it(self, reference: Any, model: ClusterModel) -> None:
        ids, mask = left_padded([5])
        config = GenerationConfig(max_new_tokens=20, eos_token_id=EOS, pad_token_id=PAD)
        expected, actual = both(reference, model, ids, config, attention_mask=mask, max_new_tokens=4)
        assert actual.tolist() == expected.tolist()
        assert config.max_new_tokens == 20

    def test_input_ids_by_name_and_no_inputs_at_all(self, reference: Any, model: ClusterModel) -> None:
        ids, mask = left_padded([5])
        expected, actual = both(reference, model, input_ids=ids, attention_mask=mask, max_new_tokens=4)
        assert actual.tolist() == expected.tolist()
        expected, actual = both(reference, model, max_new_tokens=4)
        assert actual.tolist() == expected.tolist()

    def test_default_length_warns_and_is_20(self, reference: Any, model: ClusterModel) -> None:
        ids, mask = left_padded([5])
        with pytest.warns(UserWarning, match="max_length"):
            expected = reference.generate(ids, attention_mask=mask, eos_token_id=None)
        with pytest.warns(UserWarning, match="max_new_tokens"):
            actual = model.generate(ids, attention_mask=mask, eos_token_id=None)
        assert isinstance(actual, torch.Tensor)
        assert actual.shape == expected.shape == (1, 25)

    def test_dictionary_output(self, reference: Any, model: ClusterModel) -> None:
        ids, mask = left_padded([5, 2])
        arguments: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 4, "return_dict_in_generate": True}
        expected, actual = both(reference, model, ids, **arguments)
        assert isinstance(actual, ClusterGenerateOutput)
        assert isinstance(actual, GenerateDecoderOnlyOutput)
        assert actual.sequences.tolist() == expected.sequences.tolist()
        assert actual.scores is None
        assert actual.seed is None

    @pytest.mark.parametrize("lengths", [[5], [4, 9, 1]])
    @pytest.mark.parametrize("repeat", [False, True])
    def test_streamer_gets_the_same_calls(
        self, reference: Any, model: ClusterModel, client: ToyClient, lengths: list[int], repeat: bool
    ) -> None:
        client.repeat = repeat
        ids, mask = left_padded(lengths)
        theirs, ours = Recorder(), Recorder()
        eos = reference.generate(ids, attention_mask=mask, max_new_tokens=6)[0, -1]
        arguments: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 11, "eos_token_id": [EOS, int(eos)]}
        reference.generate(ids, streamer=theirs, **arguments)
        model.generate(ids, streamer=ours, **arguments)
        assert ours.values == theirs.values
        assert ours.values[-1] == "end"

    def test_text_streamer_refuses_batches(self, reference: Any, model: ClusterModel) -> None:
        from transformers import TextStreamer

        ids, mask = left_padded([3, 3])
        for one in (reference, model):
            with pytest.raises(ValueError, match="batch size 1"):
                one.generate(ids, attention_mask=mask, streamer=TextStreamer(None), max_new_tokens=2)  # type: ignore

    def test_same_refusals(self, reference: Any, model: ClusterModel) -> None:
        ids, mask = left_padded([5])
        wrong: list[dict[str, Any]] = [
            {"max_new_tokens": 0},
            {"max_length": 5},
            {"max_new_tokens": 3, "num_return_sequences": 2},
            {"max_new_tokens": 3, "max_new_token": 3},
            {"max_new_tokens": 3, "early_stopping": "maybe"},
            {"max_new_tokens": 3, "do_sample": True, "temperature": 0.0},
            {"max_new_tokens": 3, "suppress_tokens": [4], "forced_eos_token_id": 4},
            {"max_new_tokens": 3, "input_ids": ids},
        ]
        for arguments in wrong:
            for one in (reference, model):
                with pytest.raises(ValueError):
                    one.generate(ids, attention_mask=mask, **arguments)


class TestSampling:
    def test_seed_reproduces_and_differs_by_row(self, model: ClusterModel) -> None:
        ids, _ = left_padded([4])
        arguments: dict[str, Any] = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 8, "seed": 5}
        first, again = model.generate(ids, **arguments), model.generate(ids, **arguments)
        assert isinstance(first, torch.Tensor)
        assert first.shape == (3, 12)
        assert first.equal(again)  # type: ignore[arg-type]
        assert len({tuple(row) for row in first.tolist()}) == 3

    def test_rows_have_the_seeds_of_the_call(self, model: ClusterModel, client: ToyClient) -> None:
        ids, mask = left_padded([4, 2])
        model.generate(ids, attention_mask=mask, do_sample=True, num_return_sequences=2, max_new_tokens=1, seed=9)
        assert [request.params.seed for request in client.requests] == [sequence_seed(9, index) for index in range(4)]
        lengths = [len(request.prompt_token_ids) for request in client.requests]
        assert lengths == [4, 4, 2, 2]
        assert len({request.request_id for request in client.requests}) == 4

    def test_without_a_seed_torch_decides(self, model: ClusterModel) -> None:
        ids, _ = left_padded([4])
        arguments: dict[str, Any] = {"do_sample": True, "max_new_tokens": 8, "return_dict_in_generate": True}
        torch.manual_seed(3)
        first: Any = model.generate(ids, **arguments)
        second: Any = model.generate(ids, **arguments)
        torch.manual_seed(3)
        again: Any = model.generate(ids, **arguments)
        assert first.sequences.equal(again.sequences)
        assert first.seed == again.seed != second.seed
        replay: Any = model.generate(ids, do_sample=True, max_new_tokens=8, seed=first.seed)
        assert replay.equal(first.sequences)

    def test_greedy_leaves_the_generator_alone(self, model: ClusterModel) -> None:
        ids, _ = left_padded([4])
        state = torch.random.get_rng_state()
        model.generate(ids, max_new_tokens=2)
        assert torch.random.get_rng_state().equal(state)

    def test_sampled_defaults_of_the_model_hold(self, model: ClusterModel, client: ToyClient) -> None:
        model.generation_config.update(do_sample=True, temperature=0.7)
        model.generate(left_padded([4])[0], max_new_tokens=1, top_k=None)
        params = client.requests[-1].params
        assert (params.do_sample, params.temperature, params.top_k) == (True, 0.7, None)


class TestRefusals:
    @pytest.mark.parametrize(
        ("ids", "mask", "field"),
        [
            ([[1, 2]], None, "input_ids"),
            (torch.tensor([1, 2]), None, "input_ids"),
            (torch.tensor([[1.0, 2.0]]), None, "input_ids"),
            (torch.zeros(1, 0, dtype=torch.long), None, "input_ids"),
            (torch.tensor([[1, VOCAB_SIZE]]), None, "input_ids"),
            (torch.tensor([[1, -1]]), None, "input_ids"),
            (torch.tensor([[1, 2, 3]]), torch.tensor([[1, 1]]), "attention_mask"),
            (torch.tensor([[1, 2]]), [[1, 1]], "attention_mask"),
        ],
    )
    def test_wrong_inputs_name_their_field(
        self, model: ClusterModel, client: ToyClient, ids: Any, mask: Any, field: str
    ) -> None:
        with pytest.raises(RequestError) as caught:
            model.generate(ids, attention_mask=mask, max_new_tokens=2)
        assert caught.value.field == field
        assert client.requests == []

    @pytest.mark.parametrize("seed", [-1, 2**63, "7"])
    def test_wrong_seeds(self, model: ClusterModel, seed: Any) -> None:
        with pytest.raises(RequestError) as caught:
            model.generate(left_padded([4])[0], max_new_tokens=2, do_sample=True, seed=seed)
        assert caught.value.field == "seed"

    def test_a_failed_row_ends_the_call_and_its_neighbours(self, model: ClusterModel, client: ToyClient) -> None:
        client.fail = "the weights caught fire"
        ids, mask = left_padded([4, 2])
        with pytest.raises(GenerationError, match="caught fire"):
            model.generate(ids, attention_mask=mask, max_new_tokens=50, eos_token_id=None)
        assert client.num_running == 0

    def test_errors_of_the_cluster_reach_the_caller(self, folder: Path, client: ToyClient) -> None:
        async def refuse() -> Any:
            raise ConfigError("no cluster runs here")

        with pytest.raises(ConfigError, match="no cluster"):
            ClusterModel(cluster_model(folder, client).cluster_config, refuse)


def test_right_padding_gives_the_tokens_of_the_prompt_alone(model: ClusterModel) -> None:
    ids, mask = left_padded([6])
    padded = torch.nn.functional.pad(ids, (0, 3), value=PAD)
    alone: Any = model.generate(ids, attention_mask=mask, max_new_tokens=8)
    actual: Any = model.generate(padded, attention_mask=(padded != PAD).long(), max_new_tokens=8)
    assert actual[:, :9].equal(padded)
    assert actual[:, 9:].equal(alone[:, 6:])


def test_an_interrupt_takes_the_requests_back(model: ClusterModel, client: ToyClient) -> None:
    client.hang = True
    ids, mask = left_padded([4, 2])
    timer = threading.Timer(0.3, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.generate(ids, attention_mask=mask, max_new_tokens=50, eos_token_id=None)
    assert client.num_running == 0
    assert len(client.taken_back) == 2


def test_a_failing_streamer_takes_the_request_back(model: ClusterModel, client: ToyClient) -> None:
    class Broken(Recorder):
        def put(self, value: torch.Tensor) -> None:
            if value.ndim == 1:
                raise OSError("the pipe is closed")

    client.hang = True
    with pytest.raises(OSError, match="pipe"):
        model.generate(left_padded([4])[0], max_new_tokens=50, streamer=Broken())
    assert client.num_running == 0


def test_many_rows_never_exceed_the_routers_limit(folder: Path, client: ToyClient) -> None:
    with cluster_model(folder, client) as model:
        router = type(model.cluster_config.router)(max_num_requests=3)
        model.cluster_config = type(model.cluster_config)(name="toy", target=model.cluster_config.target, router=router)
        out: Any = model.generate(torch.full((10, 1), 5), do_sample=True, seed=1, max_new_tokens=4)
    assert out.shape == (10, 5)
    assert client.max_num_running == 3


def test_calls_from_several_threads(model: ClusterModel) -> None:
    ids, mask = left_padded([5, 3])
    expected: Any = model.generate(ids, attention_mask=mask, max_new_tokens=8)
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(model.generate(ids, attention_mask=mask, max_new_tokens=8)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(result.equal(expected) for result in results)


def test_closing_ends_what_it_started(folder: Path, client: ToyClient) -> None:
    cluster = FakeCluster()
    with cluster_model(folder, client, cluster) as model:
        assert model.stats().num_requests == 0
    model.close()
    assert client.is_closed
    assert cluster.num_shutdowns == 1
    with pytest.raises(RuntimeError, match="closed"):
        model.generate(torch.tensor([[1]]))


def test_what_a_model_says_of_itself(model: ClusterModel) -> None:
    assert model.device == torch.device("cpu")
    assert model.dtype == torch.float32
    assert model.config.vocab_size == VOCAB_SIZE
    assert model.generation_config.eos_token_id == EOS


def test_no_warning_for_a_plain_call(model: ClusterModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(left_padded([4])[0], max_new_tokens=2)


@pytest.mark.parametrize("repeat", [False, True])
def test_an_output_says_what_drafting_did_for_each_row(folder: Path, reference: Any, repeat: bool) -> None:
    arguments: dict[str, Any] = {"max_new_tokens": 7, "min_new_tokens": 7, "return_dict_in_generate": True}
    with cluster_model(folder, ToyClient(reference, repeat=repeat)) as model:
        output = model.generate(torch.tensor([[3, 4], [5, 6]]), **arguments)
    assert isinstance(output, ClusterGenerateOutput)
    assert output.stats is not None
    assert [(row.num_steps, row.num_drafts) for row in output.stats] == [(3, 0), (3, 0)]
