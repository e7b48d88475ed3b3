"""Compiles grammars for one model's tokenizer on a thread of its own, and keeps the latest of them."""

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from actors.engine.errors import RequestError
from actors.engine.grammar import Grammar, check_bounds, decode_grammar
from actors.engine.grammar_check import LIMITS, in_brief, to_llguidance

MAX_NUM_GRAMMARS = 32  # kept compiled; a few hundred kB each, 75 MB at the limit of their lexer's states


class CompiledGrammar:
    """One grammar for one tokenizer, perhaps still being compiled.

    Attributes:
        future: its beginning, of which every sequence takes a copy.
    """

    def __init__(self, compiler: "GrammarCompiler", text: bytes, future: "Future[LLMatcher]") -> None:
        self._compiler = compiler
        self._text = text
        self.future = future

    def fault(self) -> RequestError | None:
        """Why the grammar cannot be compiled; None where it can. Waits for the compiler."""
        error = self.future.exception()
        if error is None or isinstance(error, RequestError):
            return error
        return RequestError(f"grammar: {type(error).__name__}: {in_brief(str(error))}", field="grammar")

    def matcher(self) -> LLMatcher:
        """A matcher at the grammar's beginning. Waits for the compiler; raises what :meth:`fault` returns."""
        return self.future.result().deep_copy()

    def renewed(self) -> LLMatcher:
        """The same, compiled anew: copies share the states of their lexer, of which there is a limited number."""
        return self._compiler.renew(self._text)


class GrammarCompiler:
    """Belongs to one engine. Compiling lets go of the interpreter's lock, so streams go on meanwhile.

    The tokenizer is adapted at once, though perhaps never needed: it takes about a second for 150,000 tokens, all of it
    with that lock held, which is nothing while a model is loading and would be felt by every stream later.

    Args:
        tokenizer: the model's; None where it has none, and then there are no grammars either.
        vocab_size: width of the logits.
        limits: on the work that a grammar may cost.

    Attributes:
        eos_token_ids: ends of text as the tokenizer knows them, which no grammar takes for text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase | None, vocab_size: int, limits: LLParserLimits = LIMITS
    ) -> None:
        self.vocab_size = vocab_size
        self._limits = limits
        self.eos_token_ids: frozenset[int] = frozenset()
        self._compiled: OrderedDict[bytes, Future[LLMatcher]] = OrderedDict()
        self._tokenizer: Future[LLTokenizer] | None = None
        if isinstance(tokenizer, PreTrainedTokenizerFast):
            if tokenizer.eos_token_id is not None:
                self.eos_token_ids = frozenset((int(tokenizer.eos_token_id),))
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
            self._tokenizer = self._thread.submit(_adapt, tokenizer, max(vocab_size, len(tokenizer)))

    @property
    def is_able(self) -> bool:
        """Whether there is a tokenizer, of the kind that llguidance reads."""
        return self._tokenizer is not None

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Begin to compile a grammar, or find it compiled.

        Raises:
            RequestError: it is too large, or there is no tokenizer to compile it for.
        """
        text = check_bounds(grammar)
        if self._tokenizer is None:
            raise RequestError(
                "grammar: the model has no tokenizer of tokenizers' kind to hold a grammar against", field="grammar"
            )
        if text not in self._compiled:
            self._compiled[text] = self._thread.submit(self._build, text)
        self._compiled.move_to_end(text)
        while len(self._compiled) > MAX_NUM_GRAMMARS:
            self._compiled.popitem(last=False)
        return CompiledGrammar(self, text, self._compiled[text])

    def renew(self, text: bytes) -> LLMatcher:
        """A matcher that shares nothing, in the caller's time; later sequences share a new one too."""
        self._compiled.pop(text, None)
        return self._build(text)

    def _build(self, text: bytes) -> LLMatcher:
        assert self._tokenizer is not None
        try:
            source = to_llguidance(decode_grammar(text))
        except ValueError as error:
            raise RequestError(f"grammar: {in_brief(str(error))}", field="grammar") from error
        matcher = LLMatcher(self._tokenizer.result(), source, limits=self._limits, log_level=0)
        matcher.compute_bitmask()  # builds much of what every copy then has
        if matcher.is_error():
            raise RequestError(f"grammar: {in_brief(matcher.get_error())}", field="grammar")
        return matcher


def _adapt(tokenizer: PreTrainedTokenizerFast, num_ids: int) -> LLTokenizer:
    return from_tokenizer(tokenizer, n_vocab=num_ids)
