"""Where one sequence stands in its grammar.

The parser is a cache of a pure function of the ids emitted so far: it is moved to whatever prefix it is asked about,
back by rolling back and forth by reading on. Drafted ids, corrections, preemption and failover need nothing further,
and what was drafted never shows.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from actors.engine.errors import GenerationError
from actors.engine.grammar_check import in_brief
from actors.engine.grammar_compiler import CompiledGrammar, GrammarCompiler
from actors.engine.params import GenerationParams

Bits = NDArray[np.uint8]
"""A bit a token, the lowest bit of the first byte for token 0."""

_T = TypeVar("_T")


class _SpentError(GenerationError):
    """The parser has reached a limit, after which it answers nothing."""


class GrammarState:
    """The grammar of one sequence.

    Args:
        grammar: what to hold it to.
        num_prompt_tokens: ids of the prompt, which the grammar does not see.
        never: tokens that are no text: every eos token there is.
        ending: tokens that end the sequence, legal where the text may end.
        vocab_size: width of the logits.
        is_draft: of a draft sequence. There a grammar is a help and no duty: while it is not compiled, and behind ids
            that it cannot read (a target's with another vocabulary), every token is legal.
    """

    def __init__(
        self,
        grammar: CompiledGrammar,
        num_prompt_tokens: int,
        *,
        never: frozenset[int],
        ending: frozenset[int],
        vocab_size: int,
        is_draft: bool,
    ) -> None:
        self.grammar = grammar
        self._num_prompt_tokens = num_prompt_tokens
        self._never = never
        self._text = ~_bits(never, vocab_size)
        self._ending = _bits(ending, vocab_size)
        self._is_draft = is_draft
        self._matcher: LLMatcher | None = None
        self._read: list[int] = []  # emitted ids behind which the matcher stands
        self._is_end: list[bool] = []  # of each of them, whether the text can only end there

    @classmethod
    def begin(
        cls, params: GenerationParams, num_prompt_tokens: int, compiler: GrammarCompiler, *, is_draft: bool
    ) -> "GrammarState | None":
        """Prepare a sequence; None where it has no grammar, or its draft cannot have one.

        Raises:
            RequestError: the grammar is too large, known to be none, or the model has no tokenizer to hold it against.
        """
        if params.grammar is None or (is_draft and not compiler.is_able):
            return None
        grammar = compiler.compile(params.grammar)
        if not is_draft and grammar.future.done() and (fault := grammar.fault()) is not None:
            raise fault
        eos = frozenset(params.eos_token_id)
        return cls(
            grammar,
            num_prompt_tokens,
            never=compiler.eos_token_ids | eos,
            ending=frozenset() if params.ignore_eos else eos,
            vocab_size=compiler.vocab_size,
            is_draft=is_draft,
        )

    @property
    def is_ready(self) -> bool:
        """Whether the sequence may run: the grammar is compiled, or cannot be, or need not be."""
        return self._is_draft or self.grammar.future.done()

    def legal(self, ids: Sequence[int], num_ids: int) -> Bits | None:
        """The tokens that may stand behind ``ids[:num_ids]``; None for all.

        Raises:
            GenerationError: the ids themselves are not legal, or the parser's limits are reached.
        """
        return self._ask(ids, num_ids, self._mask)

    def is_complete(self, ids: Sequence[int], num_ids: int) -> bool:
        """Whether the text of ``ids[:num_ids]`` can only end. What cannot be read is left to :meth:`legal`."""
        if num_ids == self._num_prompt_tokens:
            return False
        try:
            return bool(self._ask(ids, num_ids, self._ends))
        except GenerationError:
            return False

    def _ask(self, ids: Sequence[int], num_ids: int, question: Callable[[Sequence[int]], _T]) -> _T | None:
        """Put a question about the emitted ids, to a new parser if this one is spent; None for a draft without answer.

        A new parser knows nothing but these ids, so whether it answers hangs on them alone.
        """
        if self._is_draft and (not self.grammar.future.done() or self.grammar.fault() is not None):
            return None
        emitted = ids[self._num_prompt_tokens : num_ids]
        try:
            try:
                return question(emitted)
            except _SpentError:
                self._matcher = self.grammar.renewed()
                self._read.clear()
                self._is_end.clear()
                return question(emitted)
        except GenerationError:
            if self._is_draft:
                return None
            raise

    def _mask(self, emitted: Sequence[int]) -> Bits:
        matcher = self._stand_behind(emitted)
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)[: len(self._text)]
        _check(matcher)
        text = mask & self._text
        return text | self._ending if matcher.is_accepting() else text

    def _ends(self, emitted: Sequence[int]) -> bool:
        if emitted != self._read[: len(emitted)]:
            self._stand_behind(emitted)
        return self._is_end[len(emitted) - 1]

    def _stand_behind(self, emitted: Sequence[int]) -> LLMatcher:
        """The matcher, moved behind these ids."""
        if self._matcher is None:
            self._matcher = self.grammar.matcher()
        matcher = self._matcher
        num_common = _num_common(self._read, emitted)
        if num_common < len(self._read):
            matcher.rollback(len(self._read) - num_common)
            del self._read[num_common:], self._is_end[num_common:]
        _check(matcher)
        for token in emitted[num_common:]:
            if token in self._never or matcher.try_consume_tokens([token]) != 1:
                _check(matcher)
                position = self._num_prompt_tokens + len(self._read)
                raise GenerationError(f"grammar: it does not allow token {token}, which stands at position {position}")
            self._read.append(token)
            self._is_end.append(matcher.is_stopped())
        return matcher


def _check(matcher: LLMatcher) -> None:
    if matcher.is_error():
        raise _SpentError(f"grammar: the parser gave up: {in_brief(matcher.get_error())}")


def _num_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix, by halves: comparing slices is quick, a loop over thousands of ids is not."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:  # a[:low] is common, a[:high] is not
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _bits(token_ids: frozenset[int], vocab_size: int) -> Bits:
    flags = np.zeros(vocab_size, np.uint8)
    flags[[token for token in token_ids if token < vocab_size]] = 1
    return np.packbits(flags, bitorder="little")
