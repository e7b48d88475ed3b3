"""From a request to a sequence: everything that may refuse it, before it touches anything."""

from collections.abc import Callable

import torch

from actors.engine.admission import check_request, check_search
from actors.engine.beam_group import BeamGroup
from actors.engine.config import EngineConfig
from actors.engine.grammar_compiler import GrammarCompiler
from actors.engine.grammar_state import GrammarState
from actors.engine.loaded import LoadedModel
from actors.engine.processor_registry import ProcessorRegistry
from actors.engine.request import Request
from actors.engine.sampler import SamplerState
from actors.engine.sequence import Sequence
from actors.engine.stopping import StopState
from actors.engine.validation import check_params, refusal


class Intake:
    """Knows the model and its bounds.

    Args:
        loaded: the model.
        config: of the engine.
        max_model_len: longest sequence, prompt included.
        num_blocks: KV blocks of the whole cache.
        clock: seconds, for ``max_time``.
        registry: processors that requests may name.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        config: EngineConfig,
        max_model_len: int,
        num_blocks: int,
        clock: Callable[[], float],
        registry: ProcessorRegistry | None = None,
    ) -> None:
        self._loaded = loaded
        self._config = config
        self._max_model_len = max_model_len
        self._num_blocks = num_blocks
        self._clock = clock
        self._registry = registry
        self._grammars = GrammarCompiler(loaded.tokenizer, loaded.vocab_size)

    def begin(self, request: Request, *, is_draft: bool) -> Sequence:
        """Check a request and make its sequence. Raises RequestError naming the field and the limit."""
        params, tokenizer = request.params, self._loaded.tokenizer
        num_prompt = len(request.prompt_token_ids)
        self._check(request)
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

    def begin_search(self, request: Request) -> BeamGroup:
        """Check a request with beams and make its search. Raises RequestError naming the field and the limit."""
        params, num_prompt = request.params, len(request.prompt_token_ids)
        self._check(request)
        check_search(
            request,
            max_model_len=self._max_model_len,
            block_size=self._config.block_size,
            num_blocks=self._num_blocks,
            max_num_seqs=self._config.max_num_seqs,
        )
        stopping = StopState.build(
            params,
            num_prompt,
            self._max_model_len,
            self._loaded.tokenizer,
            started=self._clock(),
            registry=self._registry,
        )
        sampler = SamplerState.build(
            params, num_prompt, self._loaded, request.prompt_token_ids, registry=self._registry
        )
        try:
            sampler.processors(torch.device("cpu"))
        except (ValueError, TypeError) as error:
            raise refusal(params, error) from error
        return BeamGroup(request, sampler, stopping)

    def _check(self, request: Request) -> None:
        vocab_size = self._loaded.vocab_size
        check_params(request.params, vocab_size, has_tokenizer=self._loaded.tokenizer is not None)
        check_request(
            request,
            vocab_size=vocab_size,
            max_model_len=self._max_model_len,
            capacity=self._num_blocks * self._config.block_size,
        )
