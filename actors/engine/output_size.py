"""How much the tensors of an output will come to, known before anything is computed."""

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, PretrainedConfig

from actors.engine.errors import RequestError

NUM_BYTES = 4  # of a number, as float32


def check_output_size(
    wishes: GenerationConfig, config: PretrainedConfig, *, num_rows: int, width: int, limit: int | None
) -> None:
    """Check the tensors that a call asks for against a bound.

    Args:
        wishes: the call's parameters over the model's.
        config: the model's.
        num_rows: prompts.
        width: their length, padding included.
        limit: bytes; None for no bound.

    Raises:
        RequestError: they would be larger; names the field that takes most.
    """
    sizes = output_sizes(wishes, config, num_rows=num_rows, width=width)
    total = sum(sizes.values())
    if limit is None or total <= limit:
        return
    field = max(sizes, key=lambda name: sizes[name])
    raise RequestError(
        f"{field}: the tensors asked for come to {total} bytes, but the limit (max_output_bytes) is {limit}; "
        "ask for fewer tokens, sequences or tensors",
        field=field,
        limit=str(limit),
    )


def output_sizes(wishes: GenerationConfig, config: PretrainedConfig, *, num_rows: int, width: int) -> Mapping[str, int]:
    """Bytes that each ``output_*`` field brings, at most. Arguments as above."""
    text: Any = config.get_text_config()
    num_new: int = wishes.max_new_tokens or max(1, (wishes.max_length or 20) - width)
    num_sequences = num_rows * max(wishes.num_beams or 1, wishes.num_return_sequences or 1)
    heads, hidden = int(text.num_attention_heads), int(text.hidden_size)
    layers = int(text.num_hidden_layers)
    if config.is_encoder_decoder:
        decoder_layers = text.num_decoder_layers if hasattr(text, "num_decoder_layers") else text.decoder_layers
        num_states = width * (layers + 1) + num_new * (decoder_layers + 1)
        num_pairs = layers * width**2 + decoder_layers * (num_new * (num_new + 1) // 2 + num_new * width)
    else:
        num_states = (width + num_new) * (layers + 1)
        num_pairs = layers * (width**2 + num_new * width + num_new * (num_new + 1) // 2)
    each = {
        "output_scores": num_new * text.vocab_size,
        "output_logits": num_new * text.vocab_size,
        "output_hidden_states": num_states * hidden,
        "output_attentions": num_pairs * heads,
    }
    return {name: num_sequences * count * NUM_BYTES for name, count in each.items() if getattr(wishes, name)}
