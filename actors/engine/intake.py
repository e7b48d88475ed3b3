"""From a request to a sequence: everything that may refuse it, before it touches anything."""

from collections.abc import Callable

from actors.engine.admission import check_request
from actors.engine.grammar_compiler import GrammarCompiler
from actors.engine.grammar_state import GrammarState
from actors.engine.loaded import LoadedModel
from actors.engine.processor_registry import ProcessorRegistry
from actors.engine.request import Request
from actors.engine.sampler import SamplerState
from actors.engine.sequence import Sequence
from actors.engine.stopping import StopState
from actors.engine.validation import check_params


class Intake:
    """Knows the model and its bounds.

    Args:
        loaded: the model.
        max_model_len: longest sequence, prompt included.
        capacity: tokens that the whole KV cache holds.
        clock: seconds, for ``max_time``.
        registry: processors that requests may name.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        max_model_len: int,
        capacity: int,
        clock: Callable[[], float],
        registry: ProcessorRegistry | None = None,
    ) -> None:
        self._loaded = loaded
        self._max_model_len = max_model_len
        self._capacity = capacity
        self._clock = clock
        self._registry = registry
        self._grammars = GrammarCompiler(loaded.tokenizer, loaded.vocab_size)

    def begin(self, request: Request, *, is_draft: bool) -> Sequence:
        """Check a request and make its sequence. Raises RequestError naming the field and the limit."""
        params, tokenizer = request.params, self._loaded.tokenizer
        num_prompt = len(request.prompt_token_ids)
        check_params(params, self._loaded.vocab_size, has_tokenizer=tokenizer is not None)
        check_request(
            request,
            vocab_size=self._loaded.vocab_size,
            max_model_len=self._max_model_len,
            capacity=self._capacity,
        )
        grammar = GrammarState.begin(params, num_prompt, self._grammars, is_draft=is_draft)
        stopping = StopState.build(
            params,
            num_prompt,
            self._max_model_len,
            tokenizer,
            started=self._clock(),
            grammar=grammar,
            registry=self._registry,
        )
        sampler = SamplerState.build(
            params, num_prompt, self._loaded, request.prompt_token_ids, grammar, self._registry
        )
        return Sequence(request, sampler, stopping, is_draft=is_draft)
