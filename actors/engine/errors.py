"""The errors of the engine, as one tree.

SlipstreamError
├── ConfigError            a configuration that cannot work, found before any memory is taken
│   ├── ModelNotFoundError     no such path, hub id or embedded model
│   ├── QuantizationError      this quantization is not supported on this device
│   ├── DoesNotFitError        the model and its KV cache do not fit the memory that is free
│   └── VocabularyError        the tokenizer does not fit the model's vocabulary
├── RequestError           a request that is refused; names the field and the limit
│   ├── OverloadedError        too much is in flight; the same request may be taken later
│   └── TokenIdError           a token id that the model does not know; an IndexError, as torch raises
└── GenerationError        a request that failed while it ran; its neighbours go on
"""


class SlipstreamError(Exception):
    """Base of every error that Slipstream raises on purpose."""


class ConfigError(SlipstreamError, ValueError):
    """A configuration that cannot work."""


class ModelNotFoundError(ConfigError):
    """No model lies at the path, hub id or name that was given."""


class QuantizationError(ConfigError):
    """The quantization asked for is not supported on the device, or contradicts the checkpoint."""


class DoesNotFitError(ConfigError):
    """Weights and KV cache exceed the memory that is free."""


class VocabularyError(ConfigError):
    """The tokenizer produces ids that the model does not know."""


class RequestError(SlipstreamError, ValueError):
    """A request that is refused before it runs.

    Attributes:
        field: name of the offending field, as the caller spelt it.
        limit: the bound that was crossed, in words or digits; empty where there is none.
    """

    def __init__(self, message: str, *, field: str = "", limit: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.limit = limit


class OverloadedError(RequestError):
    """The cluster has as many requests in flight as it takes; the same request may be taken later."""


class TokenIdError(RequestError, IndexError):
    """A token id beyond the model's vocabulary. torch, which meets it in the embedding, calls that an IndexError."""


class GenerationError(SlipstreamError, RuntimeError):
    """A request that failed while it ran."""
