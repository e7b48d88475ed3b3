"""Declared calls on a model: from plain data to the arguments of ``generate``, and from its output to numpy."""

import copy
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.configuration_utils import SynthIDTextWatermarkingConfig

from actors.engine.declared_call import DeclaredCall, PlainOutput, Rows
from actors.engine.errors import GenerationError, RequestError, SlipstreamError
from actors.engine.output_size import check_output_size
from actors.engine.processor_registry import ProcessorRegistry


class DeclaredGeneration:
    """Reads calls that came as plain data.

    Args:
        model: that will run them.
        tokenizer: the model's; None where it has none.
        registry: processors and criteria that calls may name.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, registry: ProcessorRegistry
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._registry = registry

    def arguments(self, call: DeclaredCall) -> dict[str, Any]:
        """The arguments of ``generate``. Raises RequestError: a bound, a name that is not registered."""
        given = dict(call.fields)
        settings = copy.deepcopy(self._model.generation_config)
        try:
            if "ngram_len" in (watermark := given.get("watermarking_config") or {}):
                given["watermarking_config"] = SynthIDTextWatermarkingConfig(**watermark)
            settings.update(**given)
        except (ValueError, TypeError) as error:
            raise refusal(error, call) from error
        pad = _pad_token_id(settings)
        is_encoder = bool(self._model.config.is_encoder_decoder)
        ids, mask = pad_rows(call.prompts, pad, is_left=not is_encoder)
        check_output_size(
            settings,
            self._model.config,
            num_rows=len(call.prompts),
            width=ids.shape[1],
            limit=call.max_output_bytes,
        )
        arguments: dict[str, Any] = {
            **given,
            "input_ids": ids,
            "attention_mask": mask,
            "logits_processor": self._registry.logits_processors(call.logits_processors),
            "stopping_criteria": self._registry.stopping_criteria(call.stopping_criteria),
            "tokenizer": self._tokenizer,
            "return_dict_in_generate": True,
        }
        if call.negative_prompts is not None:
            negative = call.negative_prompts
            negative = negative * len(call.prompts) if len(negative) == 1 else negative
            ids, mask = pad_rows(negative, pad, is_left=True)
            arguments |= {"negative_prompt_ids": ids, "negative_prompt_attention_mask": mask}
        if call.decoder_prompts is not None:
            ids, mask = pad_rows(call.decoder_prompts, pad, is_left=True)
            arguments |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        return arguments


def plain_output(output: Any) -> PlainOutput:
    """What ``generate`` returned, in numpy."""
    names = [field.name for field in fields(PlainOutput)]
    return PlainOutput(**{name: _to_numpy(getattr(output, name, None)) for name in names})


def failure(error: Exception, call: DeclaredCall) -> SlipstreamError:
    """What ended a declared call, as an error of our own tree: transformers' refusals are the request's fault."""
    if isinstance(error, SlipstreamError):
        return error
    if isinstance(error, ValueError | TypeError | NotImplementedError | ImportError):
        return refusal(error, call)
    return GenerationError(f"{type(error).__name__}: {error}")


def refusal(error: Exception, call: DeclaredCall) -> RequestError:
    """What transformers refuses; its field is the first one of the call that transformers names."""
    words = re.findall(r"\w+", str(error))
    field = next((word for word in words if word in call.fields), "")
    return RequestError(f"{field or 'generation parameters'}: {error}", field=field)


def pad_rows(rows: Rows, pad_token_id: int, *, is_left: bool) -> tuple[Tensor, Tensor]:
    """Ids (rows, width) and their mask, padded on one side. Decoders continue on the right, so they pad on the left."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, token_ids in enumerate(rows):
        place = slice(width - len(token_ids), None) if is_left else slice(len(token_ids))
        ids[row, place] = torch.tensor(token_ids)
        mask[row, place] = 1
    return ids, mask


def _pad_token_id(settings: GenerationConfig) -> int:
    eos = settings.eos_token_id
    first = (eos[0] if eos else None) if isinstance(eos, Sequence) else eos
    return next((int(token) for token in (settings.pad_token_id, first) if token is not None), 0)


def _to_numpy(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).contiguous().numpy()
    if isinstance(value, tuple | list):
        return tuple(_to_numpy(item) for item in value)
    return value
