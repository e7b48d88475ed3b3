"""Arguments of ``generate`` as the body of a request."""

from collections.abc import Mapping
from typing import Any

import msgspec

from actors.engine.errors import RequestError
from actors.engine.params import GenerationParams
from cluster.named import NAMED_AS, named_processors

# Fields that cannot be null: None leaves them to the server.
_NEVER_NULL = frozenset(
    field.name for field in msgspec.structs.fields(GenerationParams) if field.default is not None
) | {"num_return_sequences"}


def request_body(
    inputs: Any,
    *,
    generation_config: Any = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    negative_prompt_ids: Any = None,
    negative_prompt_attention_mask: Any = None,
    not_sent: Mapping[str, Any],
    fields: Mapping[str, Any],
) -> dict[str, Any]:
    """Build a body.

    Args:
        inputs: a text, ids, several of either, or an array (rows, width).
        generation_config: a mapping, or an object with ``to_diff_dict``; lies under ``fields``.
        logits_processor: names, or mappings with ``name`` and ``args``, of what the server's operator has registered.
        stopping_criteria: the same.
        negative_prompt_ids: ids, several of them, or an array.
        negative_prompt_attention_mask: what of them counts.
        not_sent: arguments that only have a meaning within one process; refused unless they are None.
        fields: all other arguments.

    Raises:
        RequestError: an argument that cannot travel.
    """
    for name, value in not_sent.items():
        if value is not None:
            raise RequestError(f"{name}: cannot be sent to a server; use ClusterModel within the cluster", field=name)
    given = {**_config_fields(generation_config), **fields}
    mask = given.pop("attention_mask", None)
    given.pop("return_dict_in_generate", None)
    body = {name: plain(name, value) for name, value in given.items() if value is not None or name not in _NEVER_NULL}
    if inputs is not None:
        body |= _prompts(inputs, mask)
    if negative_prompt_ids is not None:
        body["negative_prompt_ids"] = _without_padding(negative_prompt_ids, negative_prompt_attention_mask)
    for name, value in (("logits_processor", logits_processor), ("stopping_criteria", stopping_criteria)):
        named = named_processors(name, value)
        if value and not named:
            raise RequestError(
                f"{name}: code cannot be sent to a server, but it is {value!r:.80}; name what its operator registered",
                field=name,
            )
        if named:
            body[NAMED_AS[name]] = [{"name": item.name, "args": plain(name, item.args)} for item in named]
    return body


def plain(name: str, value: Any) -> Any:
    """A value as JSON has it: arrays as lists, configurations as their fields. Raises RequestError for code."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "to_dict"):
        return plain(name, value.to_dict())
    if name == "sequence_bias" and isinstance(value, Mapping):
        return [[list(ids), bias] for ids, bias in value.items()]
    if isinstance(value, Mapping):
        return {str(key): plain(name, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(name, item) for item in value]
    if callable(value):
        raise RequestError(f"{name}: code cannot be sent to a server, but it is {value!r:.80}", field=name)
    try:
        return msgspec.to_builtins(value)
    except TypeError:
        raise RequestError(f"{name}: cannot be sent to a server: {value!r:.80}", field=name) from None


def _config_fields(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    fields = dict(config) if isinstance(config, Mapping) else config.to_diff_dict()
    return {name: value for name, value in fields.items() if value is not None and name != "transformers_version"}


def _prompts(inputs: Any, mask: Any) -> dict[str, Any]:
    several = inputs if isinstance(inputs, list | tuple) else ()
    if not isinstance(inputs, str) and not (several and all(isinstance(item, str) for item in several)):
        return {"input_ids": _without_padding(inputs, mask)}
    if mask is not None:
        raise RequestError("attention_mask: only beside ids, not beside text", field="attention_mask")
    return {"prompt": inputs if isinstance(inputs, str) else list(inputs)}


def _without_padding(ids: Any, mask: Any) -> Any:
    rows = plain("input_ids", ids)
    if mask is None:
        return rows
    kept = plain("attention_mask", mask)
    if [*map(len, kept)] != [*map(len, rows)]:
        raise RequestError("attention_mask: the shape of the ids is needed", field="attention_mask")
    return [[token for token, keep in zip(*pair, strict=True) if keep] for pair in zip(rows, kept, strict=True)]
