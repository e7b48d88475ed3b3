"""When a sequence ends: eos, stop strings, a grammar's end, lengths, time. Decided token by token, on the host."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteriaList, StopStringCriteria

from actors.engine.errors import RequestError
from actors.engine.grammar_state import GrammarState
from actors.engine.params import GenerationParams
from actors.engine.processor_registry import ProcessorRegistry
from actors.engine.request import FinishReason

_MAX_TOKENIZERS = 8

TokenTexts = dict[int, str] | dict[int, bytes]


class StopStrings:
    """Finds stop strings at the end of a sequence, as ``transformers.StopStringCriteria`` does.

    A stop string is found when it occurs in the text of the last tokens and ends inside the very last one: that token
    may carry text beyond it, and the first may begin before it. The text of each token is what transformers' criterion
    takes it for (bytes, where the tokenizer works on bytes); found by string search here, since that costs a few
    microseconds a token, where tensors over the vocabulary cost seconds to build for each new set of stop strings.
    """

    def __init__(self, stop_strings: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> None:
        self._texts, is_bytes = token_texts(tokenizer)
        self._empty: str | bytes = b"" if is_bytes else ""
        self._stops = tuple(stop.encode() if is_bytes else stop for stop in stop_strings)
        self._window = max(len(stop) for stop in self._stops)

    def is_complete(self, token_ids: Sequence[int], num_tokens: int) -> bool:
        """Whether the last of ``token_ids[:num_tokens]`` completes a stop string."""
        last = self._texts.get(token_ids[num_tokens - 1])
        if last is None:
            return False
        before = self._empty
        for token in reversed(token_ids[max(0, num_tokens - self._window) : num_tokens - 1]):
            text = self._texts.get(token)
            if text is None or len(before) >= self._window:
                break
            before = text + before  # type: ignore[operator]  # both str or both bytes
        tail = before + last  # type: ignore[operator]
        return any(_ends_in_last(tail, stop, len(before)) for stop in self._stops)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopState:
    """The stopping conditions of one sequence.

    Attributes:
        eos_token_ids: tokens that end it; empty where eos is ignored.
        stop_strings: finder of its stop strings, None where it has none.
        max_num_tokens: tokens, prompt included, at which it ends.
        deadline: time (on the clock of ``check``) after which it ends.
        grammar: ends it where its text can only end; None where it has none.
        criteria: those that its request names.
    """

    eos_token_ids: frozenset[int]
    stop_strings: StopStrings | None
    max_num_tokens: int
    deadline: float | None = None
    grammar: GrammarState | None = None
    criteria: StoppingCriteriaList = field(default_factory=StoppingCriteriaList)

    @classmethod
    def build(
        cls,
        params: GenerationParams,
        num_prompt_tokens: int,
        max_model_len: int,
        tokenizer: PreTrainedTokenizerBase | None,
        eos_token_ids: Sequence[int] | None = None,
        started: float = 0.0,
        grammar: GrammarState | None = None,
        registry: ProcessorRegistry | None = None,
    ) -> Self:
        """Prepare a sequence.

        Args:
            params: of the request.
            num_prompt_tokens: ids of the prompt.
            max_model_len: the context in tokens.
            tokenizer: the model's; stop strings need one.
            eos_token_ids: replaces ``params.eos_token_id``.
            started: when the sequence began, in seconds on the clock that :meth:`check` is given.
            grammar: its own.
            registry: makes the criteria that ``params`` name.

        Raises:
            RequestError: stop strings without a tokenizer; criteria that the registry refuses.
        """
        if params.stop_strings and tokenizer is None:
            raise RequestError("stop_strings need a tokenizer, and the model has none", field="stop_strings")
        eos = params.eos_token_id if eos_token_ids is None else eos_token_ids
        return cls(
            eos_token_ids=frozenset() if params.ignore_eos else frozenset(eos),
            stop_strings=_finder(params.stop_strings, tokenizer) if params.stop_strings and tokenizer else None,
            max_num_tokens=min(num_prompt_tokens + params.max_new_tokens, max_model_len),
            deadline=None if params.max_time is None else started + params.max_time,
            grammar=grammar,
            criteria=(registry or ProcessorRegistry()).stopping_criteria(params.stopping_criteria),
        )

    def check(self, token_ids: Sequence[int], num_tokens: int, now: float) -> FinishReason | None:
        """Why a sequence ends with its newest token, ``token_ids[num_tokens - 1]``, or None where it goes on.

        Raises GenerationError where one of its criteria fails.
        """
        if token_ids[num_tokens - 1] in self.eos_token_ids:
            return FinishReason.STOP
        if self.stop_strings is not None and self.stop_strings.is_complete(token_ids, num_tokens):
            return FinishReason.STOP
        if self.grammar is not None and self.grammar.is_complete(token_ids, num_tokens):
            return FinishReason.STOP
        if self.criteria and bool(self.criteria(torch.tensor([token_ids[:num_tokens]]), None)):
            return FinishReason.STOP
        if num_tokens >= self.max_num_tokens:
            return FinishReason.LENGTH
        if self.deadline is not None and now > self.deadline:
            return FinishReason.TIME
        return None


@lru_cache(maxsize=_MAX_TOKENIZERS)
def token_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[TokenTexts, bool]:
    """Text of every token of a vocabulary, and whether it is bytes. About a microsecond a token, once a tokenizer."""
    mode = StopStringCriteria._get_stop_string_matching_mode(tokenizer)
    texts, ids = StopStringCriteria.clean_tokenizer_vocab(tokenizer, stop_string_matching_mode=mode)
    return dict(zip(ids, texts, strict=True)), mode is not None


@lru_cache(maxsize=256)
def _finder(stop_strings: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> StopStrings:
    return StopStrings(stop_strings, tokenizer)


def _ends_in_last(tail: str | bytes, stop: str | bytes, num_before: int) -> bool:
    """Whether ``stop`` occurs in ``tail`` with its end behind the first ``num_before`` characters."""
    return tail.find(stop, max(0, num_before - len(stop) + 1)) >= 0  # type: ignore[arg-type]
