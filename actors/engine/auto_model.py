"""Which of transformers' auto classes a configuration is for."""

from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig


def auto_class(config: PreTrainedConfig) -> Any:
    """Return the auto class that generates with such a model: an encoder-decoder's, or that of causal models."""
    return AutoModelForSeq2SeqLM if getattr(config, "is_encoder_decoder", False) else AutoModelForCausalLM
