"""An engine for models that it cannot batch: encoder-decoders, which transformers' own ``generate`` runs."""

from collections.abc import Sequence

from actors.engine.config import EngineConfig
from actors.engine.errors import RequestError
from actors.engine.loaded import LoadedModel
from actors.engine.native_generation import NativeModel
from actors.engine.processor_registry import ProcessorRegistry
from actors.engine.protocol import TokenEngine
from actors.engine.request import Delta, EngineStats, Request


class EncoderDecoderEngine(TokenEngine):
    """Has a model for native runs, and refuses token streams.

    Attributes:
        max_model_len: longest sequence on either side.
        vocab_size: width of the logits.
        num_step_tokens: always 0, as there are no steps.
        native: the weights, as transformers' own ``generate`` runs them.
    """

    def __init__(self, loaded: LoadedModel, config: EngineConfig, *, registry: ProcessorRegistry | None = None) -> None:
        num_blocks = config.num_blocks or loaded.num_blocks
        contexts = (config.max_model_len, getattr(loaded.config, "max_position_embeddings", None))
        self.max_model_len = min([length for length in contexts if length] or [num_blocks * config.block_size])
        self.vocab_size = loaded.vocab_size
        self.num_step_tokens = 0
        self.native = NativeModel(loaded.model, loaded.model.config._attn_implementation, loaded.tokenizer, registry)

    def add(self, request: Request) -> None:
        """Raises RequestError: there is nothing that could run it."""
        raise RequestError(
            "model: an encoder-decoder has no prompt to continue; use generate() from Python, or /generate",
            field="model",
        )

    def open(self, request: Request) -> None:
        """Raises RequestError, as :meth:`add` does."""
        self.add(request)

    def propose(self, request_id: str, start: int, token_ids: Sequence[int]) -> None:
        """Ignored: there are no sequences."""

    def hold(self, request_id: str) -> None:
        """Ignored: there are no sequences."""

    def release(self, request_id: str) -> None:
        """Ignored: there are no sequences."""

    def abort(self, request_id: str) -> None:
        """Ignored: there are no sequences."""

    def extend(
        self, request_id: str, start: int, token_ids: Sequence[int], num_new_tokens: int, num_ahead: int = 0
    ) -> None:
        """Raises KeyError: there are no sequences."""
        raise KeyError(request_id)

    def fork(self, request_id: str, fork_id: str, position: int, num_new_tokens: int) -> int | None:
        """None: there are no sequences."""
        return None

    def step(self) -> list[Delta]:
        """Nothing is ever ready."""
        return []

    def has_work(self) -> bool:
        """Never."""
        return False

    def num_unfinished(self) -> int:
        """None."""
        return 0

    def stats(self) -> EngineStats:
        """All zero."""
        return EngineStats()
