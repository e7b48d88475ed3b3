"""What code written for a model of transformers asks of one besides ``generate``: pipelines, evaluation, scripts."""

from functools import cached_property
from typing import Any, Self

import torch
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedTokenizerBase

from actors.engine.errors import ConfigError, RequestError
from cluster.config import ClusterConfig
from cluster.pretrained import count_parameters, load_generation_config, load_model_config
from cluster.tokenization import load_tokenizer


class ModelFace:
    """Describes the target of a cluster in the words of ``transformers.PreTrainedModel``; needs no cluster that runs.

    Attributes:
        cluster_config: what the cluster was started with.
        training: always False.
        main_input_name: what ``generate`` takes first.
        input_modalities: for pipelines.
        output_modalities: for pipelines.
    """

    training = False
    main_input_name = "input_ids"
    input_modalities = "text"
    output_modalities = ("text",)

    def __init__(self, cluster_config: ClusterConfig) -> None:
        self.cluster_config = cluster_config
        self._device = torch.device("cpu")

    @property
    def device(self) -> torch.device:
        """Where inputs are expected and results are put: the CPU, or what :meth:`to` said. Weights lie elsewhere."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the target's unquantized weights."""
        name = self.cluster_config.target.worker.model.dtype
        dtype = getattr(torch, name) if name != "auto" else self.config.dtype
        return dtype if isinstance(dtype, torch.dtype) else torch.float32

    @cached_property
    def config(self) -> PretrainedConfig:
        """The target's configuration."""
        return load_model_config(self.cluster_config.target.worker.model)

    @cached_property
    def generation_config(self) -> GenerationConfig:
        """The target's generation defaults; changes to it hold for the calls of this object."""
        return load_generation_config(self.cluster_config.target.worker.model, self.config)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The target's tokenizer, padding on the left. Raises ConfigError where it has none."""
        tokenizer = load_tokenizer(self.cluster_config.target.worker.model)
        tokenizer.padding_side = "left"
        return tokenizer

    @cached_property
    def has_tokenizer(self) -> bool:
        """Whether the target has a tokenizer, which finds stop strings where nobody brings one."""
        try:
            return self.tokenizer is not None
        except ConfigError:
            return False

    @property
    def vocab_size(self) -> int | None:
        """Width of the target's logits, as its configuration says."""
        size: int | None = getattr(self.config.get_text_config(), "vocab_size", None)
        return size

    @property
    def name_or_path(self) -> str:
        """The target's checkpoint: a folder that ``AutoTokenizer.from_pretrained`` takes."""
        return str(self.config.name_or_path)

    def can_generate(self) -> bool:
        """True."""
        return True

    def num_parameters(self) -> int:
        """Number of the target's parameters, as they are before they are quantized."""
        return count_parameters(self.config)

    def eval(self) -> Self:
        """Nothing to do: the actors' models never train."""
        return self

    def to(self, device: str | int | torch.device) -> Self:
        """Put results on ``device`` from now on, and expect inputs there. The weights stay in their actors.

        Raises:
            RequestError: a dtype, which is settled when the cluster starts.
        """
        if isinstance(device, torch.dtype):
            raise RequestError(f"dtype: {device} cannot be set here; start the cluster with dtype=", field="dtype")
        self._device = torch.device(device)
        return self

    def compute_transition_scores(
        self,
        sequences: torch.Tensor,
        scores: tuple[torch.Tensor, ...],
        beam_indices: torch.Tensor | None = None,
        normalize_logits: bool = False,
    ) -> torch.Tensor:
        """Scores of the chosen tokens, (rows, new tokens), from a result of ``generate``, as transformers reckons."""
        reckon: Any = GenerationMixin.compute_transition_scores  # it reads nothing of a model but ``config``
        found: torch.Tensor = reckon(self, sequences, scores, beam_indices, normalize_logits)
        return found
