"""A draft's engine that speaks its target's token ids, although its model has a vocabulary of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from actors.engine.errors import RequestError
from actors.engine.params import MAX_INT, GenerationParams
from actors.engine.protocol import TokenEngine
from actors.engine.request import Delta, EngineStats, FinishReason, Request
from actors.translation import MAX_RATIO, TranslatedText, Translation

NOTHING = 0  # an id to answer with where nothing was drafted that the target has ids for: most likely wrong, no harm


class Noise(Protocol):
    """Lets draft sequences of an engine draw with the noise of another vocabulary and of other positions."""

    def couple(self, noise_ids: Sequence[int]) -> None:
        """Let draft sequences that :meth:`shift_noise` was called for draw id v with the noise of ``noise_ids[v]``."""

    def shift_noise(self, request_id: str, num_positions: int) -> None:
        """Let a draft sequence draw at each position with the noise of one so much further on. Unknown: ignored."""


@dataclass
class _Text:
    """One sequence. ``prefix`` is what the draft has before its text."""

    text: TranslatedText
    params: GenerationParams
    num_prompt_tokens: int
    prefix: list[int]


class TranslatedEngine:
    """Fulfils the draft's half of :class:`actors.engine.protocol.TokenEngine` in the ids of a target.

    What the target confirms is translated as it comes, and what the model writes is translated back. The model draws
    with the target's noise: where both have a token, and have counted alike since the last confirmed id, it is the same
    as the target's own. It does not branch.

    Args:
        engine: of the draft's model, or a share of it.
        noise: the engine itself.
        translation: the two vocabularies.
    """

    def __init__(self, engine: TokenEngine, noise: Noise, translation: Translation) -> None:
        self._engine = engine
        self._noise = noise
        self._translation = translation
        self._texts: dict[str, _Text] = {}
        self.num_step_tokens = 0
        noise.couple(translation.noise_ids())

    def add(self, request: Request) -> None:
        """See :class:`TokenEngine`. Raises RequestError: a translated engine only drafts."""
        raise RequestError("model: a draft that is translated to another's tokens only drafts", field="model")

    def propose(self, request_id: str, start: int, token_ids: Sequence[int]) -> None:
        """See :class:`TokenEngine`; of no use for a draft."""

    def hold(self, request_id: str) -> None:
        """See :class:`TokenEngine`; of no use for a draft."""

    def release(self, request_id: str) -> None:
        """See :class:`TokenEngine`; of no use for a draft."""

    def abort(self, request_id: str) -> None:
        """See :class:`TokenEngine`."""
        self._texts.pop(request_id, None)
        self._engine.abort(request_id)

    def open(self, request: Request) -> None:
        """See :class:`TokenEngine`. Raises RequestError where the draft's tokenizer cannot write the text."""
        text = TranslatedText(self._translation)
        _confirm(text, 0, [*request.prompt_token_ids, *request.emitted_token_ids])
        entry = _Text(text, self._params(request.params), len(request.prompt_token_ids), [])
        prefix = list(self._translation.draft_prefix)
        if text.draft_ids[: len(prefix)] != prefix:
            entry.prefix = prefix
        draft_ids = (*entry.prefix, *text.draft_ids)
        if not draft_ids:
            raise RequestError("the draft's tokenizer has nothing for the text")
        self._engine.open(Request(request_id=request.request_id, prompt_token_ids=draft_ids, params=entry.params))
        self._texts[request.request_id] = entry

    def extend(
        self, request_id: str, start: int, token_ids: Sequence[int], num_new_tokens: int, num_ahead: int = 0
    ) -> None:
        """See :class:`TokenEngine`. Raises RequestError where the draft's tokenizer cannot write the text."""
        entry = self._texts[request_id]
        text = entry.text
        num_kept = _confirm(text, start, token_ids)
        num_before = len(entry.prefix)
        self._noise.shift_noise(request_id, text.shift - num_before)
        self._engine.extend(
            request_id,
            num_before + num_kept,
            text.draft_ids[num_kept:],
            math.ceil(num_new_tokens * text.ratio),
            math.ceil(num_ahead * text.ratio),
        )

    def fork(self, request_id: str, fork_id: str, position: int, num_new_tokens: int) -> int | None:
        """See :class:`TokenEngine`; always None."""
        return None

    def step(self) -> list[Delta]:
        """See :class:`TokenEngine`."""
        deltas = self._engine.step()
        self.num_step_tokens = self._engine.num_step_tokens
        return [self._translate(delta) for delta in deltas if delta.request_id in self._texts]

    def has_work(self) -> bool:
        """See :class:`TokenEngine`."""
        return self._engine.has_work()

    def num_unfinished(self) -> int:
        """See :class:`TokenEngine`."""
        return 0

    def stats(self) -> EngineStats:
        """See :class:`TokenEngine`."""
        return self._engine.stats()

    def _translate(self, delta: Delta) -> Delta:
        """What was drafted, in ids of the target behind what it has confirmed."""
        entry = self._texts[delta.request_id]
        if delta.finish_reason is FinishReason.ERROR:
            del self._texts[delta.request_id]
            return delta
        text = entry.text
        try:
            proposed = text.propose(delta.token_ids)
        except ValueError:
            proposed = []
        return msgspec.structs.replace(
            delta,
            start=len(text.target_ids) - entry.num_prompt_tokens,
            token_ids=tuple(proposed or [NOTHING]),
            logprobs=None,
        )

    def _params(self, params: GenerationParams) -> GenerationParams:
        """What a request asks for, as far as it can be said in the draft's ids.

        What is left out, because it counts or names ids of the target, its own sampler sees to.
        """
        to_draft = self._translation.to_draft
        biased = {token_id: to_draft((token_id,)) for token_id in params.logit_bias or ()}
        bias = {ids[0]: (params.logit_bias or {})[token_id] for token_id, ids in biased.items() if ids}
        return GenerationParams(
            max_new_tokens=min(MAX_INT, math.ceil(MAX_RATIO * params.max_new_tokens)),
            eos_token_id=tuple(to_draft(params.eos_token_id)),
            ignore_eos=params.ignore_eos,
            do_sample=params.do_sample,
            seed=params.seed,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            typical_p=params.typical_p,
            epsilon_cutoff=params.epsilon_cutoff,
            eta_cutoff=params.eta_cutoff,
            top_h=params.top_h,
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            logit_bias=bias or None,
            logprobs=params.logprobs,
            assistant_confidence_threshold=params.assistant_confidence_threshold,
        )


def _confirm(text: TranslatedText, start: int, token_ids: Sequence[int]) -> int:
    try:
        return text.confirm(start, token_ids)
    except ValueError as error:
        raise RequestError(str(error)) from error
