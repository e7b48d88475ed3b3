"""One step of beam search over log-probabilities, in pure functions. They know no model, no blocks and no requests.

The algorithm is the one that ``transformers.GenerationMixin._beam_search`` has, decision by decision and in the same
float32 arithmetic: of all continuations of all beams more are kept than there are beams, so that enough remain to go on
with where the best of them end; those that end among the best ``num_beams`` compete by their score over length.

Beam sampling keeps a draw without replacement from softmax(accumulated scores) instead of the best. Adding standard
Gumbel noise and taking the largest is such a draw, in the order of ``torch.multinomial`` (Vieira 2014; Kool, van Hoof,
Welling 2019), and with counter-based noise it is a function of (seed, position, beam, token) (DESIGN, rule 2).

B beams, V tokens, K continuations kept of B * V.
"""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from actors.engine.noise import gumbel_noise
from actors.engine.params import GenerationParams

HOPELESS = -1.0e9  # transformers' score of what is not there


@dataclass(frozen=True, slots=True)
class BeamRules:
    """What a search goes by.

    Attributes:
        num_beams: B.
        num_kept: K.
        length_penalty: power of the length that scores are divided by.
        early_stopping: True: end once ``num_beams`` sequences have ended; False: once the best beam could not beat them
            at its present length; "never": nor at any length.
        max_num_new: tokens that a sequence may come to behind its prompt.
    """

    num_beams: int
    num_kept: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    max_num_new: int

    @classmethod
    def of(cls, params: GenerationParams, max_num_new: int) -> Self:
        """Those that a request's parameters make."""
        num_eos = 0 if params.ignore_eos else len(params.eos_token_id)
        return cls(
            num_beams=params.num_beams,
            num_kept=max(2, 1 + num_eos) * params.num_beams,
            length_penalty=params.length_penalty,
            early_stopping=params.early_stopping,
            max_num_new=max_num_new,
        )


@dataclass(frozen=True, slots=True)
class BeamScores:
    """Where a search stands, on the CPU.

    Attributes:
        running: (B,) float32, summed log-probabilities of the beams, best first.
        finished: (B,) float32, scores of the sequences that have ended, best first.
        is_finished: (B,) bool, which of them there are.
        can_improve: whether a running beam may still come to be among them.
    """

    running: Tensor
    finished: Tensor
    is_finished: Tensor
    can_improve: bool = True

    @classmethod
    def begin(cls, num_beams: int) -> Self:
        """Those of a search that has not begun: all beams are one, and only the first may be continued."""
        running = torch.full((num_beams,), HOPELESS)
        running[0] = 0.0
        return cls(running, torch.full((num_beams,), HOPELESS), torch.zeros(num_beams, dtype=torch.bool))


@dataclass(frozen=True, slots=True)
class Choice:
    """What a step decides.

    Attributes:
        running: (B,) int64, the continuations that go on, by their places among the K.
        finished: (B,) int64, the sequences that have ended: below B those before, by their places, then the K.
        scores: where the search stands now.
        is_over: whether it ends.
    """

    running: Tensor
    finished: Tensor
    scores: BeamScores
    is_over: bool


def keep_best(log_probs: Tensor, running: Tensor, num_kept: int) -> tuple[Tensor, Tensor]:
    """The continuations of the largest accumulated log-probability, best first.

    Args:
        log_probs: (B, V) float32 of the next token, after all processors.
        running: (B,) float32, those of the beams so far.
        num_kept: K.

    Returns:
        Accumulated log-probabilities (K,) and places (K,) in the flat (B * V).
    """
    values, places = torch.topk((log_probs + running.unsqueeze(-1)).flatten(), num_kept)
    return values, places


def draw(log_probs: Tensor, running: Tensor, num_kept: int, seed: int, position: int) -> tuple[Tensor, Tensor]:
    """Continuations drawn without replacement from softmax(accumulated), in the order in which they are drawn.

    Args:
        log_probs: (B, V) float32 of the next token, after all processors and warpers.
        running: (B,) float32, those of the beams so far.
        num_kept: K.
        seed: of the request.
        position: absolute position of the next token.

    Returns:
        As :func:`keep_best`.
    """
    beams = torch.arange(log_probs.shape[0], device=log_probs.device)
    noise = gumbel_noise(torch.full_like(beams, seed), torch.full_like(beams, position), log_probs.shape[1], beams)
    accumulated = (log_probs + running.unsqueeze(-1)).flatten()
    places = torch.topk(accumulated + noise.flatten(), num_kept).indices
    return accumulated[places], places


def choose(scores: BeamScores, values: Tensor, is_end: Tensor, num_new: int, rules: BeamRules) -> Choice:
    """Decide which continuations go on, which are among the best that have ended, and whether to end.

    Args:
        scores: before this step.
        values: (K,) float32, accumulated log-probabilities.
        is_end: (K,) bool, which of them end with their newest token.
        num_new: tokens that they have behind the prompt.
        rules: of the search.
    """
    size, is_early = rules.num_beams, rules.early_stopping is True
    going = torch.topk(values + is_end * HOPELESS, size)
    finished, best = _merge(scores, values, is_end, num_new, rules)
    is_finished = torch.cat([scores.is_finished, is_end & (torch.arange(len(values)) < size)])[best]
    can_improve = scores.can_improve and _can_improve(going.values[0], finished, is_finished, num_new, rules)
    is_over = not can_improve or (is_early and bool(is_finished.all())) or bool(is_end.all())
    return Choice(going.indices, best, BeamScores(going.values, finished, is_finished, can_improve), is_over)


def _merge(scores: BeamScores, values: Tensor, is_end: Tensor, num_new: int, rules: BeamRules) -> tuple[Tensor, Tensor]:
    """Scores (B,) and places (B,) of the best among those that had ended and those that end now."""
    ended = values / num_new**rules.length_penalty
    is_full = rules.early_stopping is True and bool(scores.is_finished.all())
    # Penalties add up as they do in transformers, so that what is equal there is equal here.
    for is_out in (is_full, not scores.can_improve):
        ended = ended + HOPELESS if is_out else ended
    is_best = torch.arange(len(values)) < rules.num_beams
    ended = ended + ~(is_end & is_best) * HOPELESS
    best = torch.topk(torch.cat([scores.finished, ended]), rules.num_beams)
    return best.values, best.indices


def _can_improve(best: Tensor, finished: Tensor, is_finished: Tensor, num_new: int, rules: BeamRules) -> bool:
    """Whether the best running beam may beat the worst that has ended: an estimate, where length is rewarded."""
    is_long = rules.early_stopping == "never" and rules.length_penalty > 0.0
    length = rules.max_num_new if is_long else num_new
    worst = torch.where(is_finished, finished.min(), HOPELESS)
    return bool((best / length**rules.length_penalty > worst).any())
