"""transformers' own ``generate``, a forward at a time, on a model that the engine uses in between."""

from typing import Any

import pytest
import torch

from actors.engine.native_generation import NativeCall, NativeModel
from tests.actors.engine.harness import tiny_loaded

IDS = torch.tensor([[5, 6, 7, 8, 5, 6]])


class Outcome:
    """Keeps what a run comes to."""

    def __init__(self) -> None:
        self.output: Any = None
        self.error: Exception | None = None

    def put(self, token_ids: torch.Tensor | tuple[int, ...]) -> None:
        """Nobody reads along."""

    def finish(self, output: Any) -> None:
        """Keep the result."""
        self.output = output

    def fail(self, error: Exception) -> None:
        """Keep the error."""
        self.error = error


@pytest.fixture
def model() -> Any:
    model = tiny_loaded("llama").model
    model.set_attn_implementation("sdpa")  # an engine of another test may have left its own
    return model


@torch.no_grad()
def test_early_exit_shows_to_nobody_else(model: Any) -> None:
    """A run that drafts with the first layers is stopped in the middle of it while others use the whole model."""
    arguments = {"assistant_early_exit": 1, "max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(IDS, max_new_tokens=8, eos_token_id=None, pad_token_id=0)
    whole = model(IDS).logits
    native, outcome = NativeModel(model, "sdpa"), Outcome()
    run = native.start(NativeCall(arguments={"inputs": IDS, **arguments}), outcome)
    depths = set()
    while native.step(run):
        assert run.depths is not None
        depths |= set(run.depths)
        assert model.config.num_hidden_layers == 3
        assert torch.equal(model(IDS).logits, whole)
    assert depths == {1, 3}, "the run was never stopped while it drafted"
    assert outcome.error is None
    assert torch.equal(outcome.output, expected)


@torch.no_grad()
def test_a_run_that_is_given_up_leaves_the_model_whole(model: Any) -> None:
    whole = model(IDS).logits
    native = NativeModel(model, "sdpa")
    arguments = {"inputs": IDS, "assistant_early_exit": 1, "max_new_tokens": 8, "pad_token_id": 0}
    run = native.start(NativeCall(arguments=arguments), Outcome())
    while native.step(run) and 1 not in (run.depths or ()):
        pass
    run.is_cancelled = True
    assert not native.step(run)
    assert model.config.num_hidden_layers == 3
    assert torch.equal(model(IDS).logits, whole)
