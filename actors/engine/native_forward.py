"""A model's own forward, for callers that want logits: whole where it is small, in pieces where logits are many."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

MAX_NUM_VALUES = 2**26  # logits that one forward may yield, 256 MiB in float32
MIN_NUM_COLUMNS = 32  # a piece is this wide before rows are put together
IN_PIECES = {"input_ids", "attention_mask", "use_cache", "return_dict"}


def forward(model: PreTrainedModel, arguments: Mapping[str, Any], max_num_values: int = MAX_NUM_VALUES) -> Any:
    """What ``model(**arguments)`` returns, at least its logits on the CPU.

    Logits of a prompt can outgrow the weights: 2048 positions of a vocabulary of 150 000 are 1.2 GB in float32. Where
    they are more than ``max_num_values`` and nothing but them is asked for, prompts are computed in pieces, each behind
    the cache of those before it, and only one piece's logits are on the device at a time.

    Args:
        model: without gradients.
        arguments: of its forward, on its device.
        max_num_values: bound of the logits, rows x positions x vocabulary, that a forward yields.
    """
    input_ids = arguments.get("input_ids")
    vocab_size = getattr(model.config.get_text_config(), "vocab_size", None)
    if not isinstance(input_ids, torch.Tensor) or input_ids.ndim != 2 or vocab_size is None:
        return model(**arguments)
    if input_ids.numel() * vocab_size <= max_num_values or not _can_go_in_pieces(model, arguments):
        return model(**arguments)
    return _in_pieces(model, input_ids, arguments, max_num_values // vocab_size)


def _can_go_in_pieces(model: PreTrainedModel, arguments: Mapping[str, Any]) -> bool:
    asked = {name for name, value in arguments.items() if value is not None and value is not False}
    kind: Any = type(model)
    has_cache = not (model.config.is_encoder_decoder or kind._is_stateful) and kind._supports_default_dynamic_cache()
    return has_cache and asked <= IN_PIECES and arguments.get("return_dict") is not False


def _in_pieces(
    model: PreTrainedModel, input_ids: torch.Tensor, arguments: Mapping[str, Any], max_num_positions: int
) -> CausalLMOutputWithPast:
    """The logits of (rows, width) ids, at most ``max_num_positions`` rows x columns at a time."""
    mask = arguments.get("attention_mask")
    wants_cache = arguments.get("use_cache", getattr(model.config, "use_cache", True)) is not False
    logits: torch.Tensor | None = None
    cache: Cache | None = None
    num_rows, width = input_ids.shape
    row_step = num_rows if wants_cache else max(1, min(num_rows, max_num_positions // MIN_NUM_COLUMNS))
    column_step = max(1, max_num_positions // row_step)
    for rows in _slices(num_rows, row_step):
        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        for columns in _slices(width, column_step):
            output: Any = model(
                input_ids=input_ids[rows, columns],
                attention_mask=None if mask is None else mask[rows, : columns.stop],
                past_key_values=cache,
                use_cache=True,
            )
            if logits is None:
                logits = torch.empty(num_rows, width, output.logits.shape[-1], dtype=output.logits.dtype)
            logits[rows, columns] = output.logits.cpu()
            cache = output.past_key_values
    return CausalLMOutputWithPast(
        logits=logits,
        past_key_values=cache if wants_cache else None,
    )


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
