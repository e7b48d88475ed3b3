import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import yaml
from transformers import BitsAndBytesConfig

from actors.engine.config import EngineConfig
from actors.engine.errors import ConfigError
from cluster.config import ClusterConfig
from cluster.configure import configure, share_gpus


def test_demo_is_the_embedded_pair() -> None:
    assert configure("demo") == ClusterConfig.demo()


def test_a_model_alone_has_no_draft() -> None:
    config = configure("some/model", num_gpus=0)
    assert config.name == "some/model"
    assert config.draft is None
    assert config.target.worker.model.quantization == "none"
    assert config.target.worker.num_threads == len(os.sched_getaffinity(0))


def test_a_pair_and_all_that_can_be_said_of_it() -> None:
    config = configure(
        "some/model",
        assistant_model="some/draft",
        quantization="nf4",
        assistant_quantization="int8",
        dtype=torch.bfloat16,
        device_map={"model.embed_tokens": torch.device("cpu"), "model.layers": 0},
        assistant_device_map="sequential",
        max_memory={0: "10GiB", "cpu": "20GiB"},
        target_replicas=2,
        draft_replicas=3,
        num_gpus=2,
        assistant_num_gpus=0.5,
        num_threads=3,
        num_assistant_tokens=4,
        engine=EngineConfig(max_num_seqs=8),
    )
    target, draft = config.target, config.draft
    assert draft is not None
    assert (target.replicas, draft.replicas) == (2, 3)
    assert (target.worker.num_gpus, draft.worker.num_gpus) == (2.0, 0.5)
    assert (target.worker.num_threads, draft.worker.num_threads) == (3, 3)
    assert (target.worker.model.quantization, draft.worker.model.quantization) == ("nf4", "int8")
    assert (target.worker.model.dtype, draft.worker.model.dtype) == ("bfloat16", "bfloat16")
    assert target.worker.model.device_map == {"model.embed_tokens": "cpu", "model.layers": 0}
    assert draft.worker.model.device_map == "sequential"
    assert target.worker.model.max_memory == {0: "10GiB", "cpu": "20GiB"}
    assert draft.worker.model.max_memory is None
    assert target.worker.engine.max_num_seqs == draft.worker.engine.max_num_seqs == 8
    assert config.router.num_assistant_tokens == 4


def test_a_full_quantization_config_travels_as_plain_data() -> None:
    full = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    for given in (full, full.to_dict()):
        model = configure("demo", quantization_config=given).target.worker.model
        assert model.quantization == "none"
        assert model.quantization_config is not None
        again = BitsAndBytesConfig(**msgspec.json.decode(msgspec.json.encode(model.quantization_config)))
        assert again.to_dict() == full.to_dict()


def test_drafts_can_be_left_out() -> None:
    assert configure("demo", draft_replicas=0).draft is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantization": "q4"}, "quantization"),
        ({"dtype": "float8"}, "dtype"),
        ({"target_replicas": 0}, "replicas"),
        ({"draft_replicas": 2}, "assistant_model"),
        ({"num_gpus": 1.5}, "num_gpus"),
        ({"num_assistant_tokens": 99}, "num_assistant_tokens"),
        ({"quantization": "nf4", "quantization_config": {"load_in_4bit": True}}, "quantization_config"),
        ({"quantization_config": "nf4"}, "quantization_config"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ],
)
def test_values_that_cannot_work(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configure("some/model", **{"num_gpus": 0, **arguments})


@pytest.mark.parametrize(
    ("num_devices", "num_targets", "num_drafts", "expected"),
    [
        (0, 1, 1, (0.0, 0.0)),
        (1, 1, 0, (1.0, 0.0)),
        (1, 1, 1, (0.8, 0.2)),
        (2, 1, 1, (1.0, 1.0)),
        (8, 1, 1, (7.0, 1.0)),
        (8, 2, 2, (3.0, 1.0)),
        (2, 2, 1, (0.8, 0.4)),
        (4, 3, 2, (1.0, 0.4)),
    ],
)
def test_gpus_are_shared_out(
    num_devices: int, num_targets: int, num_drafts: int, expected: tuple[float, float]
) -> None:
    target, draft = share_gpus(num_devices, num_targets, num_drafts)
    assert (target, draft) == pytest.approx(expected)
    assert target * num_targets + draft * num_drafts <= num_devices


class TestFiles:
    def test_yaml_and_json_say_the_same(self, tmp_path: Path) -> None:
        config = configure("demo", num_assistant_tokens=3)
        for name, text in (("c.yaml", yaml.safe_dump(msgspec.to_builtins(config))), ("c.json", _json(config))):
            (tmp_path / name).write_text(text)
            assert ClusterConfig.from_file(tmp_path / name) == config

    def test_an_empty_file_is_the_demo(self, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_text("")
        assert ClusterConfig.from_file(tmp_path / "c.yaml") == ClusterConfig.demo()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("target: [", "c.yaml"),
            ("- 1", "mapping"),
            ("draft: null\nname: x", "target"),
            ("target: {worker: {model: {model: demo, quantisation: nf4}}}", "quantisation"),
            ("target: {worker: {model: {model: ''}}}", "model"),
            ("target: {worker: {model: {model: demo}}, replicas: 0}", "replicas"),
            ("target: {worker: {model: {model: demo}}, replicas: 3, max_replicas: 2}", "max_replicas"),
        ],
    )
    def test_errors_name_the_file_and_the_field(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message) as caught:
            ClusterConfig.from_file(tmp_path / "c.yaml")
        assert "c.yaml" in str(caught.value)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"missing\.yaml"):
            ClusterConfig.from_file(tmp_path / "missing.yaml")


def _json(config: ClusterConfig) -> str:
    return msgspec.json.encode(config).decode()
