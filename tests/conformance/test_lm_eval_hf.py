"""lm-evaluation-harness's own ``hf`` model class over a ClusterModel, against itself over transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from cluster.model import ClusterModel
from tests.actors.engine.tiny_models import tiny_tokenizer
from tests.conformance.generate_matrix import Pair

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'slipstream[conformance]'")

TOLERANCE = 1e-3
PAIRS = [("It was a dark", " night"), ("It was a dark", " and stormy night"), ("", "She"), ("x" * 40, "y" * 30)]
LINES = ["It was a dark and stormy night; the rain fell in torrents.", "x"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def evaluators(decoder: Pair, tokenizer: Any) -> list[Any]:
    from lm_eval.models.huggingface import HFLM

    return [HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3) for model in decoder]


def instances(kind: str, arguments: list[Any]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


def test_log_likelihoods(evaluators: list[Any]) -> None:
    theirs, ours = (one.loglikelihood(instances("loglikelihood", PAIRS)) for one in evaluators)
    for (want, is_greedy), (found, is_greedy_here) in zip(theirs, ours, strict=True):
        assert found == pytest.approx(want, abs=TOLERANCE)
        assert is_greedy_here == is_greedy
    assert sum(value for value, _ in theirs) < -10


def test_rolling_log_likelihoods(evaluators: list[Any]) -> None:
    asked = instances("loglikelihood_rolling", [(line,) for line in LINES])
    theirs, ours = (one.loglikelihood_rolling(asked) for one in evaluators)
    assert ours == pytest.approx(theirs, abs=TOLERANCE)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"repetition_penalty": 1.3}])
def test_generation(evaluators: list[Any], settings: dict[str, Any]) -> None:
    arguments = [(line[:20], {"until": ["e", "\n\n"], "max_gen_toks": 12, **settings}) for line in LINES]
    theirs, ours = (one.generate_until(instances("generate_until", arguments)) for one in evaluators)
    assert ours == theirs
    assert any(theirs)


def test_what_is_written_into_a_report(evaluators: list[Any]) -> None:
    theirs, ours = (one.get_model_info() for one in evaluators)
    assert ours["model_num_parameters"] == theirs["model_num_parameters"] > 0
    assert ours["model_dtype"] == theirs["model_dtype"] == torch.float32


def test_the_tokenizer_is_found_by_name(demo: ClusterModel) -> None:
    from lm_eval.models.huggingface import HFLM

    evaluator = HFLM(pretrained=demo)
    assert evaluator.tokenizer.vocab_size == demo.vocab_size
    (result,) = evaluator.loglikelihood(instances("loglikelihood", [PAIRS[0]]))
    local = HFLM(pretrained=demo.name_or_path, device="cpu", dtype="float32")
    assert result[0] == pytest.approx(local.loglikelihood(instances("loglikelihood", [PAIRS[0]]))[0][0], abs=TOLERANCE)
