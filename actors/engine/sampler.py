"""Chooses tokens: the one sampler of targets and drafts (DESIGN, rule 2).

The token at absolute position i of a sequence is ``argmax_v(scores_v + gumbel(seed, i, v))``, where scores are the
logits after all processors and warpers, so that it is distributed as softmax(scores); greedy is the same without noise.
Each row is a pure function of its logits, prefix and parameters. A drafted sequence brings one row per position, the
drafts being part of the later prefixes, and all rows of all sequences are decided in one call.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from actors.engine import warpers
from actors.engine.choice import NoiseKeys, argmax, argmax_with_noise
from actors.engine.errors import RequestError
from actors.engine.grammar_mask import mask_scores
from actors.engine.grammar_state import GrammarState
from actors.engine.loaded import LoadedModel
from actors.engine.logprobs import token_logprobs
from actors.engine.params import GenerationParams
from actors.engine.processor_registry import ProcessorRegistry
from actors.engine.processors import build_processors, min_num_tokens, needs_list
from actors.engine.request import TokenLogprobs
from actors.engine.validation import refusal

# Called with a prefix (1, n) and its scores (1, vocab); transformers' LogitsProcessorList in earnest.
Processors = Callable[..., Tensor]


class SamplerState:
    """What the sampler knows of one sequence: never changed by sampling, but for caches.

    Attributes:
        params: of the request.
        num_prompt_tokens: how many ids of a prefix are the prompt.
        grammar: which tokens are legal behind a prefix; None where all are.
        is_plain: greedy and without any processor, so that the logits decide as they are.
        is_vectorized: whether all of its processors have a vectorized form.
        is_truncated: whether warpers may rule most tokens out before one is drawn.
        noise: whose noise it draws with, where not its own tokens'; set for drafts of another vocabulary only.
    """

    def __init__(
        self,
        params: GenerationParams,
        num_prompt_tokens: int,
        build_list: Callable[[torch.device], Processors],
        grammar: GrammarState | None = None,
    ) -> None:
        self.params = params
        self.num_prompt_tokens = num_prompt_tokens
        self.grammar = grammar
        self.min_num_tokens = min_num_tokens(params, num_prompt_tokens) if params.eos_token_id else 0
        self.is_vectorized = not needs_list(params)
        self.is_plain = self.is_vectorized and not (
            params.do_sample
            or grammar is not None
            or self.min_num_tokens
            or params.repetition_penalty not in (None, 1.0)
            or params.presence_penalty
            or params.frequency_penalty
            or params.logit_bias
        )
        self.is_truncated = params.do_sample and bool(
            not self.is_vectorized
            or grammar is not None
            or params.top_k
            or params.top_p not in (None, 1.0)
            or params.min_p is not None
        )
        self.noise: NoiseKeys | None = None
        self._build = build_list
        self._lists: dict[torch.device, Processors] = {}

    @classmethod
    def build(
        cls,
        params: GenerationParams,
        num_prompt_tokens: int,
        loaded: LoadedModel,
        prompt_ids: Sequence[int],
        grammar: GrammarState | None = None,
        registry: ProcessorRegistry | None = None,
    ) -> Self:
        """Prepare a sequence.

        Raises:
            RequestError: transformers, or the registry, refuses a parameter.
        """
        prompt = list(prompt_ids[:num_prompt_tokens])
        state = cls(
            params,
            num_prompt_tokens,
            lambda device: build_processors(params, prompt, loaded.model, device, grammar, registry),
            grammar,
        )
        if not state.is_vectorized:
            try:
                state.processors(torch.device("cpu"))
            except RequestError:
                raise
            except (ValueError, TypeError) as error:
                raise refusal(params, error) from error
        return state

    def processors(self, device: torch.device) -> Processors:
        """All processors and warpers as transformers' list, with its tensors on ``device``."""
        if device not in self._lists:
            self._lists[device] = self._build(device)
        return self._lists[device]


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One position to be decided.

    Attributes:
        state: of its sequence.
        prefix: ids of the sequence (prompt, emitted, then drafted ones); only read, and only up to ``num_prefix``.
        num_prefix: how many of them precede the token to be chosen, which is its absolute position.
        is_ranked: whether to say also what would be chosen if the chosen token were ruled out.
    """

    state: SamplerState
    prefix: Sequence[int]
    num_prefix: int
    is_ranked: bool = False


@dataclass(frozen=True)
class Sampled:
    """The decisions, one a row.

    Attributes:
        token_ids: the chosen tokens; without meaning for a row in ``errors``.
        logprobs: for rows whose parameters ask, None for others.
        errors: why a row could not be decided (its processor raised, its logits are no numbers), by row.
        second_choices: for ranked rows, by row.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]
    errors: dict[int, str] = field(default_factory=dict)
    second_choices: dict[int, int] = field(default_factory=dict)


def sample(logits: Tensor, rows: Sequence[SampleRow]) -> Sampled:
    """Decide a batch of positions.

    Args:
        logits: (rows, vocab), any float dtype and device; not changed.
        rows: what each row of ``logits`` belongs to.

    Returns:
        The decisions. Nothing is raised for a single row's fault.
    """
    if not rows:
        return Sampled([], [])
    scores, errors = process(logits, rows)
    if any(row.state.params.do_sample for row in rows):
        best, chosen = scores.amax(dim=-1), _choose(scores, rows, errors)
    else:
        best, chosen = scores.max(dim=-1)
    # One transfer for both: float64 holds every token id.
    token_ids, largest = torch.stack([chosen.to(torch.float64), best.to(torch.float64)]).tolist()
    token_ids = [int(token) for token in token_ids]
    for i, value in enumerate(largest):
        if not math.isfinite(value):
            errors.setdefault(i, _describe(value))
    asked = {i: n for i, row in enumerate(rows) if (n := row.state.params.logprobs) is not None and i not in errors}
    logprobs = token_logprobs(scores, token_ids, asked)
    return Sampled(
        token_ids, [logprobs.get(i) for i in range(len(rows))], errors, _second_choices(scores, rows, chosen, errors)
    )


def _choose(scores: Tensor, rows: Sequence[SampleRow], errors: Mapping[int, str]) -> Tensor:
    """The tokens of the largest score plus noise, (rows,) int64."""
    sampled = [i for i, row in enumerate(rows) if row.state.params.do_sample and i not in errors]
    if len(sampled) == len(rows):
        return _draw(scores, rows)
    chosen = argmax(scores)
    if sampled:
        indices = torch.tensor(sampled, device=scores.device)
        chosen[indices] = _draw(scores[indices], [rows[i] for i in sampled])
    return chosen


def _second_choices(
    scores: Tensor, rows: Sequence[SampleRow], chosen: Tensor, errors: Mapping[int, str]
) -> dict[int, int]:
    """What ranked rows would choose if their choice were ruled out, under the same noise."""
    ranked = [i for i, row in enumerate(rows) if row.is_ranked and i not in errors]
    if not ranked:
        return {}
    indices = torch.tensor(ranked, device=scores.device)
    others = scores[indices].scatter(-1, chosen[indices].unsqueeze(-1), float("-inf"))
    second = _choose(others, [rows[i] for i in ranked], {}).tolist()
    exists = (others.amax(dim=-1) > float("-inf")).tolist()
    return {i: int(token) for i, token, is_there in zip(ranked, second, exists, strict=True) if is_there}


def process(logits: Tensor, rows: Sequence[SampleRow]) -> tuple[Tensor, dict[int, str]]:
    """Logits after all processors and warpers, (rows, vocab) float32, and why a row's processor failed, by row.

    Where no row has a processor, that may be ``logits`` itself.
    """
    errors: dict[int, str] = {}
    if all(row.state.is_plain for row in rows):
        return logits.to(torch.float32), errors
    scores = logits.to(torch.float32, copy=True)
    errors |= _apply_vectorized(scores, rows)
    for i, row in enumerate(rows):
        if not row.state.is_vectorized:
            try:
                scores[i] = _process_one(scores[i].clone(), row)
            except Exception as error:  # a fault of one sequence's parameters must not reach its neighbours
                errors[i] = f"logits processor: {type(error).__name__}: {error}"
    return scores, errors


def _process_one(scores: Tensor, row: SampleRow) -> Tensor:
    """One row, (vocab,) float32, through transformers' classes."""
    prefix = torch.tensor([row.prefix[: row.num_prefix]], dtype=torch.int64, device=scores.device)
    return row.state.processors(scores.device)(prefix, scores.unsqueeze(0)).squeeze(0)


def _apply_vectorized(scores: Tensor, rows: Sequence[SampleRow]) -> dict[int, str]:
    """Processors and warpers of all rows with a vectorized form, in transformers' order; why a row has no mask."""
    mine = [(i, row, row.state.params) for i, row in enumerate(rows) if row.state.is_vectorized]
    repeated = {
        i: (row.prefix[: row.num_prefix], p.repetition_penalty)
        for i, row, p in mine
        if p.repetition_penalty not in (None, 1.0)
    }
    _apply(warpers.scale_repeated, scores, repeated)
    early = {i: p.eos_token_id for i, row, p in mine if row.num_prefix < row.state.min_num_tokens}
    _apply(warpers.ban_tokens, scores, early)
    _apply(warpers.add_to_tokens, scores, {i: p.logit_bias for i, _, p in mine if p.logit_bias})
    _apply(warpers.penalize_emitted, scores, {i: _emitted(row) for i, row, p in mine if _is_penalized(p)})
    held = {i: (g, row.prefix, row.num_prefix) for i, row, _ in mine if (g := row.state.grammar) is not None}
    errors = mask_scores(scores, held) if held else {}
    drawn = [(i, p) for i, _, p in mine if p.do_sample]
    _apply(warpers.divide_by_temperature, scores, _given(drawn, "temperature", neutral=(None, 1.0)))
    _apply(warpers.keep_top_k, scores, _given(drawn, "top_k", neutral=(None, 0)))
    _apply(warpers.keep_top_p, scores, _given(drawn, "top_p", neutral=(None, 1.0)))
    _apply(warpers.keep_min_p, scores, _given(drawn, "min_p", neutral=(None,)))
    return errors


def _apply(warp: Callable[[Tensor, Any], None], scores: Tensor, by_row: Mapping[int, Any]) -> None:
    if by_row:
        warp(scores, by_row)


def _given(drawn: Iterable[tuple[int, GenerationParams]], name: str, neutral: Sequence[float | None]) -> dict[int, Any]:
    return {i: value for i, params in drawn if (value := getattr(params, name)) not in neutral}


def _is_penalized(params: GenerationParams) -> bool:
    return bool(params.presence_penalty or params.frequency_penalty)


def _emitted(row: SampleRow) -> tuple[Sequence[int], float, float]:
    params = row.state.params
    emitted = row.prefix[row.state.num_prompt_tokens : row.num_prefix]
    return emitted, params.presence_penalty, params.frequency_penalty


def _draw(scores: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    coupled = [i for i, row in enumerate(rows) if row.state.noise is not None]
    if coupled and len(coupled) < len(rows):
        others = [i for i, row in enumerate(rows) if row.state.noise is None]
        chosen = torch.empty(len(rows), dtype=torch.int64, device=scores.device)
        for part in (coupled, others):
            indices = torch.tensor(part, device=scores.device)
            chosen[indices] = _draw(scores[indices], [rows[i] for i in part])
        return chosen
    keys = rows[0].state.noise  # all of them belong to one engine, and differ in their shift alone
    seeds = torch.tensor([row.state.params.seed for row in rows], device=scores.device)
    positions = torch.tensor([_position(row) for row in rows], device=scores.device)
    is_truncated = any(row.state.is_truncated for row in rows)
    return argmax_with_noise(scores, seeds, positions, is_truncated=is_truncated, keys=keys)


def _position(row: SampleRow) -> int:
    """Absolute position of the token, in the target's count."""
    return row.num_prefix + (row.state.noise.shift if row.state.noise is not None else 0)


def _describe(best: float) -> str:
    if best == float("-inf"):
        return "every token is ruled out: all logits are -inf after the processors"
    return "the logits are not finite (NaN or +inf)"
