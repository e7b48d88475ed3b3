"""What code written for a model of transformers asks of one besides ``generate``."""

from functools import cached_property

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from actors.engine.errors import ConfigError
from cluster.config import ClusterConfig
from cluster.pretrained import load_generation_config, load_model_config
from cluster.tokenization import load_tokenizer


class ModelFace:
    """Describes a model of a cluster in the words of ``transformers.PreTrainedModel``; needs no cluster that runs.

    Attributes:
        cluster_config: what the cluster was started with.
        name: which of its models this is: the target, or a draft.

    Raises:
        ConfigError: the cluster has no model of that name.
    """

    def __init__(self, cluster_config: ClusterConfig, name: str | None = None) -> None:
        models = cluster_config.models
        if name is not None and name not in models:
            raise ConfigError(f"model: there is no {name!r} in this cluster, only {', '.join(models)}")
        self.cluster_config = cluster_config
        self.name = cluster_config.name if name is None else name
        self._model = models[self.name]

    @property
    def device(self) -> torch.device:
        """Where inputs are expected: the CPU, whatever devices the actors have."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the unquantized weights."""
        name = self._model.dtype
        dtype = getattr(torch, name) if name != "auto" else self.config.dtype
        return dtype if isinstance(dtype, torch.dtype) else torch.float32

    @cached_property
    def config(self) -> PretrainedConfig:
        """The model's configuration."""
        return load_model_config(self._model)

    @cached_property
    def generation_config(self) -> GenerationConfig:
        """The model's generation defaults; changes to it hold for the calls of this object."""
        return load_generation_config(self._model, self.config)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, padding on the left. Raises ConfigError where it has none."""
        tokenizer = load_tokenizer(self._model)
        tokenizer.padding_side = "left"
        return tokenizer
