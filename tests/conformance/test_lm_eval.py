"""lm-evaluation-harness: ``local-completions`` over HTTP against its own ``hf`` over transformers."""

import logging
from pathlib import Path
from typing import Any

import pytest

from cluster.demo import TARGET_PATH
from tests.conformance.conftest import ClusterServer

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'slipstream[conformance]'")

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
TASKS = ["prose_endings", "prose_perplexity"]
TOLERANCE = 1e-3


@pytest.fixture(autouse=True)
def _at_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tasks name their data from the repository's root; what is made of it goes elsewhere."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


def evaluate(model: str, model_args: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """Run the tasks as ``lm-eval`` does."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    result: Any = simple_evaluate(
        model=model,
        model_args=model_args,
        tasks=TASKS,
        batch_size=batch_size,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(ROOT / "tests/conformance/tasks"), include_defaults=False),
    )
    return dict(result)


def log_likelihoods(result: dict[str, Any], task: str) -> list[float]:
    """Every log-likelihood of a task, in the order of its documents."""
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
    values = [value for sample in samples for response in sample["filtered_resps"] for value in _first(response)]
    return [float(value) for value in values]


def _first(response: Any) -> list[Any]:
    """The log-likelihood of a response, which may come with whether it is the greedy one."""
    return [response[0]] if isinstance(response, list | tuple) else [response]


@pytest.mark.slow
def test_log_likelihoods_are_those_of_transformers(served: ClusterServer) -> None:
    tokenizer = str(TARGET_PATH)
    ours = evaluate(
        "local-completions",
        {
            "model": "demo",
            "base_url": f"{served.url}/v1/completions",
            "tokenizer": tokenizer,
            "tokenizer_backend": "huggingface",
            "max_length": 512,
            "num_concurrent": 4,
            "max_retries": 1,
        },
        batch_size=4,
    )
    theirs = evaluate(
        "hf", {"pretrained": tokenizer, "dtype": "float32", "device": "cpu", "max_length": 511}, batch_size=4
    )
    for task in TASKS:
        mine, reference = log_likelihoods(ours, task), log_likelihoods(theirs, task)
        assert len(mine) == len(reference) >= 12
        worst = max(abs(one - other) for one, other in zip(mine, reference, strict=True))
        logger.info("%s: %d log-likelihoods, off by up to %.2g", task, len(mine), worst)
        assert worst < TOLERANCE, f"{task}: log-likelihoods differ by up to {worst}"
        assert sum(reference) < -100
    assert ours["results"]["prose_endings"]["acc,none"] == theirs["results"]["prose_endings"]["acc,none"]
