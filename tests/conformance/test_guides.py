"""Every example of transformers' text-generation guides runs on a cluster, with what it gives on the model itself."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.demo import TARGET_PATH
from cluster.model import ClusterModel
from tests.conformance.guides import EXAMPLES, LEFT_OUT


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TARGET_PATH, padding_side="left")


@pytest.fixture(scope="module")
def reference() -> Any:
    """The embedded target, made to search greedily by default, as the guides' models do."""
    model = AutoModelForCausalLM.from_pretrained(TARGET_PATH, dtype=torch.float32)
    model.generation_config.do_sample = False
    return model


@pytest.fixture(scope="module")
def ours(demo: ClusterModel) -> Iterator[ClusterModel]:
    demo.generation_config.do_sample = False
    yield demo
    del demo.generation_config


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example(reference: Any, ours: ClusterModel, tokenizer: Any, tmp_path: Path, name: str) -> None:
    example: Any = EXAMPLES[name]
    more = {"folder": tmp_path} if "folder" in inspect.signature(example).parameters else {}
    assert example(ours, tokenizer, **more) == example(reference, tokenizer, **more)


def test_what_is_left_out_has_a_reason() -> None:
    assert all(LEFT_OUT.values())
