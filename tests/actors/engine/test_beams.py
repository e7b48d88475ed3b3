"""One step's decisions are those of transformers' own functions; drawn continuations are draws without replacement."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GenerationMixin

from actors.engine.beams import HOPELESS, BeamRules, BeamScores, choose, draw, keep_best
from tests.actors.engine.sampling_helpers import chi_square_p

SCORES = st.sampled_from([-0.5, -1.0, -1.0, -2.5, -4.0, -7.0, HOPELESS, float("-inf")])


TRANSFORMERS: Any = GenerationMixin


def descending(count: int) -> st.SearchStrategy[list[float]]:
    return st.lists(SCORES, min_size=count, max_size=count).map(lambda values: sorted(values, reverse=True))


@st.composite
def steps(draw: st.DrawFn) -> tuple[BeamScores, Tensor, Tensor, int, BeamRules]:
    """A step of some search, ties and hopeless beams among its scores."""
    num_beams = draw(st.integers(2, 4))
    num_kept = num_beams * draw(st.integers(2, 3))
    num_finished = draw(st.integers(0, num_beams))
    finished = [*draw(descending(num_finished)), *[HOPELESS] * (num_beams - num_finished)]
    scores = BeamScores(
        running=torch.tensor(draw(descending(num_beams))),
        finished=torch.tensor(finished),
        is_finished=torch.arange(num_beams) < num_finished,
        can_improve=draw(st.booleans()),
    )
    rules = BeamRules(
        num_beams=num_beams,
        num_kept=num_kept,
        length_penalty=draw(st.sampled_from([1.0, 0.0, -1.0, 2.0])),
        early_stopping=draw(st.sampled_from([True, False, "never"])),
        max_num_new=9,
    )
    is_end = torch.tensor(draw(st.lists(st.booleans(), min_size=num_kept, max_size=num_kept)))
    return scores, torch.tensor(draw(descending(num_kept))), is_end, draw(st.integers(1, 9)), rules


@settings(max_examples=300, deadline=None)
@given(steps())
def test_a_step_decides_as_transformers_does(step: tuple[BeamScores, Tensor, Tensor, int, BeamRules]) -> None:
    scores, values, is_end, num_new, rules = step
    size, kept, prompt = rules.num_beams, rules.num_kept, 3
    can_improve = torch.tensor([[scores.can_improve]])
    places = torch.arange(kept)[None, :, None]
    running, running_scores, _ = TRANSFORMERS._get_running_beams_for_next_iteration(
        TRANSFORMERS, values[None], places, places, is_end[None], size
    )
    finished, finished_scores, _, is_finished = TRANSFORMERS._update_finished_beams(
        TRANSFORMERS,
        sequences=torch.arange(size)[None, :, None],
        topk_running_sequences=places + size,
        beam_scores=scores.finished[None],
        topk_log_probs=values[None].clone(),
        beam_indices=torch.arange(size)[None, :, None],
        topk_running_beam_indices=places + size,
        is_early_stop_heuristic_unsatisfied=can_improve,
        is_sent_finished=scores.is_finished[None],
        next_token_hits_stopping_criteria=is_end[None],
        top_num_beam_mask=torch.arange(kept) < size,
        num_beams=size,
        cur_len=prompt + num_new - 1,
        decoder_prompt_len=prompt,
        length_penalty=rules.length_penalty,
        early_stopping=rules.early_stopping,
    )
    can_improve = GenerationMixin._check_early_stop_heuristic(
        can_improve,
        running_scores,
        finished_scores,
        is_finished,
        prompt + num_new,
        prompt + rules.max_num_new,
        prompt,
        rules.early_stopping,
        rules.length_penalty,
    )
    goes_on = GenerationMixin._beam_search_has_unfinished_sequences(
        can_improve, is_finished, is_end[None], rules.early_stopping
    )
    choice = choose(scores, values, is_end, num_new, rules)
    assert choice.running.tolist() == running.flatten().tolist()
    assert choice.scores.running.equal(running_scores[0])
    assert choice.finished.tolist() == finished.flatten().tolist()
    assert choice.scores.finished.equal(finished_scores[0])
    assert choice.scores.is_finished.equal(is_finished[0])
    assert choice.scores.can_improve == bool(can_improve)
    assert choice.is_over is not bool(goes_on)


def test_the_best_continuations_are_kept_in_order() -> None:
    log_probs = torch.tensor([[-1.0, -3.0, -2.0], [-0.5, -9.0, -4.0]])
    values, places = keep_best(log_probs, torch.tensor([0.0, -1.0]), 4)
    assert places.tolist() == [0, 3, 2, 1]
    assert values.tolist() == [-1.0, -1.5, -2.0, -3.0]


def test_draws_are_without_replacement_and_in_the_order_of_drawing() -> None:
    log_probs = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]]).log()
    running = torch.tensor([0.7, 0.3]).log()
    probabilities = (log_probs + running[:, None]).flatten().exp()
    orders = list(itertools.permutations(range(6), 3))
    wanted = []
    for order in orders:
        left, chance = 1.0, 1.0
        for place in order:
            chance *= float(probabilities[place]) / left
            left -= float(probabilities[place])
        wanted.append(chance)
    counts = dict.fromkeys(orders, 0)
    for seed in range(6000):
        values, places = draw(log_probs, running, 3, seed, position=5)
        assert values.equal((log_probs + running[:, None]).flatten()[places])
        counts[tuple(places.tolist())] += 1
    assert chi_square_p(torch.tensor(list(counts.values())), torch.tensor(wanted)) > 0.001


def test_draws_depend_on_seed_position_and_beam_alone() -> None:
    log_probs = torch.full((2, 50), -4.0)
    running = torch.zeros(2)
    first = draw(log_probs, running, 6, 3, 9)[1].tolist()
    assert first == draw(log_probs, running, 6, 3, 9)[1].tolist()
    assert len({tuple(draw(log_probs, running, 6, *at)[1].tolist()) for at in ((3, 9), (4, 9), (3, 10))}) == 3
    alone = draw(log_probs, torch.tensor([0.0, HOPELESS]), 6, 3, 9)[1]
    other = draw(log_probs, torch.tensor([HOPELESS, 0.0]), 6, 3, 9)[1]
    assert alone.max() < 50 <= other.min()
    assert alone.tolist() != (other - 50).tolist(), "beams have noise of their own"


@pytest.mark.parametrize("num_beams", [2, 5])
def test_before_the_first_step_only_one_beam_counts(num_beams: int) -> None:
    scores = BeamScores.begin(num_beams)
    log_probs = torch.randn(1, 40).log_softmax(-1).expand(num_beams, -1)
    _, places = keep_best(log_probs, scores.running, 2 * num_beams)
    assert places.max() < 40
