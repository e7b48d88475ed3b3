"""Where two runs part, and by what margin."""

import pytest

from actors.engine.choice import argmax_with_noise
from actors.engine.noise import gumbel_values
from actors.engine.request import TokenLogprobs
from actors.request_stats import RequestStats
from cluster.audit.divergence import first_divergence
from cluster.bench.runs import Run


def run(*tokens: int, top: dict[int, tuple[tuple[int, float], ...]] | None = None) -> Run:
    logprobs = tuple(TokenLogprobs(-1.0, (top or {}).get(index, ())) for index in range(len(tokens)))
    return Run(tokens, ((0.1, len(tokens)),), logprobs, RequestStats(), 0)


def silent(index: int, token_ids: object) -> list[float]:
    return [0.0, 0.0]


def test_equal_runs_do_not_diverge() -> None:
    assert first_divergence(0, run(1, 2, 3), run(1, 2, 3), silent) is None


def test_the_first_token_that_differs_and_its_margins() -> None:
    plain = run(1, 2, 3, top={1: ((2, -1.0), (9, -1.25))})
    assisted = run(1, 9, 3, top={1: ((9, -1.0), (2, -1.125))})
    found = first_divergence(4, plain, assisted, silent)
    assert found is not None
    assert (found.prompt, found.index, found.plain_token, found.assisted_token) == (4, 1, 2, 9)
    assert (found.plain_margin, found.assisted_margin, found.margin) == (0.25, 0.125, 0.125)


def test_noise_is_part_of_a_margin() -> None:
    plain = run(2, top={0: ((9, -0.5), (2, -1.0))})
    found = first_divergence(0, plain, run(9), lambda index, ids: [0.75, 0.125])
    assert found is not None
    assert found.plain_margin == pytest.approx((-1.0 + 0.75) - (-0.5 + 0.125))
    assert found.assisted_margin is None, "the other run did not list it"
    assert found.margin == found.plain_margin


def test_a_run_that_ends_early_diverges_where_it_ends() -> None:
    found = first_divergence(0, run(1, 2), run(1, 2, 3), silent)
    assert found is not None
    assert (found.index, found.plain_token, found.assisted_token, found.margin) == (2, -1, 3, None)


def test_the_noise_is_that_of_the_sampler() -> None:
    import torch

    scores = torch.zeros(1, 50)
    chosen = int(argmax_with_noise(scores, torch.tensor([7]), torch.tensor([12]), is_truncated=False))
    noise = gumbel_values(7, 12, list(range(50)))
    assert max(range(50), key=lambda token: noise[token]) == chosen
