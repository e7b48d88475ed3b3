"""One call of ``generate``, checked and resolved: its prompts, its parameters, its seed, its padding."""

import copy
import logging
import uuid
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from transformers import GenerationConfig

from actors.engine.errors import RequestError
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from actors.engine.validation import check_params
from cluster.generation import KNOWN_FIELDS, NativeModeError, resolve_params, sequence_seed
from cluster.inputs import PromptBatch, prompt_batch
from cluster.named import NAMED_AS, named_processors

logger = logging.getLogger(__name__)

# Keyword arguments outside of GenerationConfig that would change the result, each with its mode's name.
NATIVE_KWARGS = {
    "inputs_embeds": "generation from embeddings",
    "past_key_values": "continuing from a cache",
    "position_ids": "position ids of the caller's own",
    "decoder_input_ids": "encoder-decoder generation",
    "encoder_outputs": "encoder-decoder generation",
    "pixel_values": "image input",
    "input_features": "audio input",
    "logprobs": "log-probabilities as an output of generate",
    "prompt_logprobs": "log-probabilities of prompts as an output of generate",
}
# Accepted and without effect: the cluster has its own tokenizer for stop strings.
IGNORED_KWARGS = frozenset({"tokenizer", "trust_remote_code"})


@dataclass(frozen=True, kw_only=True)
class GenerateCall:
    """A resolved call.

    Attributes:
        prompts: a row for each sequence to generate, or for each beam search.
        params: of all rows, each with its own seed added.
        seed: of the call; None for greedy search.
        pad_token_id: fills rows that end early.
        num_returned: sequences that each beam search is to return.
        return_dict: whether an output object is asked for.
        use_cache: whether the output has keys and values.
    """

    prompts: PromptBatch
    params: GenerationParams
    seed: int | None
    pad_token_id: int
    num_returned: int
    return_dict: bool
    use_cache: bool

    def requests(self) -> Iterator[Request]:
        """A request a row, with ids of its own."""
        call_id = uuid.uuid4().hex
        for index, row in enumerate(self.prompts.rows):
            params = self.params
            if self.seed is not None:
                params = msgspec.structs.replace(params, seed=sequence_seed(self.seed, index))
            yield Request(request_id=f"{call_id}-{index}", prompt_token_ids=row, params=params)


def prepare_call(
    inputs: torch.Tensor | None,
    generation_config: GenerationConfig | None,
    *,
    defaults: GenerationConfig,
    vocab_size: int | None,
    device: torch.device,
    seed: int | None,
    native: Mapping[str, Any],
    is_streamed: bool,
    kwargs: Mapping[str, Any],
) -> GenerateCall:
    """Check and resolve the arguments of one call.

    Args:
        inputs: token ids (rows, width).
        generation_config: base of the call.
        defaults: of the model, under all else.
        vocab_size: bounds the ids; None does not check them.
        device: where a call without inputs has its result.
        seed: of the call.
        native: arguments that ask for a mode which the engine does not batch, unless they are None.
        is_streamed: whether a streamer waits for tokens.
        kwargs: everything else that ``generate`` was given.

    Raises:
        RequestError: an argument that is refused.
        NativeModeError: transformers' own ``generate`` has to run this call.
    """
    named = {wire: found for name, wire in NAMED_AS.items() if (found := named_processors(name, native.get(name)))}
    for name, value in native.items():
        if value is not None and NAMED_AS.get(name) not in named:
            raise NativeModeError(f"{name} is not batched by the engine")
    arguments = {name: value for name, value in kwargs.items() if name not in IGNORED_KWARGS} | named
    input_ids = _input_ids(inputs, arguments.pop("input_ids", None))
    attention_mask = arguments.pop("attention_mask", None)
    config, fields = _merge(generation_config, defaults, arguments)
    eos_token_ids = _token_ids("eos_token_id", config.eos_token_id)
    if input_ids is None:
        input_ids = _bos(config, device)
    pad_token_id = next(iter((*_token_ids("pad_token_id", config.pad_token_id), *eos_token_ids)), None)
    prompts = prompt_batch(
        input_ids, attention_mask, pad_token_id=pad_token_id, eos_token_ids=eos_token_ids, vocab_size=vocab_size
    )
    _warn_of_lengths(config)
    if seed is None and config.do_sample is True:
        seed = int(torch.randint(0, 2**63 - 1, (1,)))
    if seed is not None:
        fields["seed"] = seed
    params = resolve_params({}, fields, num_prompt_tokens=prompts.width, can_search=True)
    if vocab_size is not None:
        check_params(params, vocab_size)
    if params.has_beams and is_streamed:
        raise NativeModeError("transformers has its own word on a streamer for beams")
    num_returned = _num_copies(config.num_return_sequences)
    return GenerateCall(
        prompts=prompts if params.has_beams else prompts.expand(num_returned),
        params=params,
        seed=seed if params.do_sample else None,
        pad_token_id=_fill_of_beams(pad_token_id, eos_token_ids) if params.has_beams else pad_token_id or 0,
        num_returned=num_returned if params.has_beams else 1,
        return_dict=config.return_dict_in_generate is True,
        use_cache=config.use_cache is not False,
    )


def _fill_of_beams(pad_token_id: int | None, eos_token_ids: tuple[int, ...]) -> int:
    """What transformers fills ended beams with: a pad token 0 counts as none there, and without eos it is no token."""
    return (pad_token_id or eos_token_ids[0]) if eos_token_ids else -1


def _input_ids(inputs: Any, input_ids: Any) -> Any:
    if inputs is not None and input_ids is not None:
        raise RequestError("input_ids: given twice, as inputs and as input_ids", field="input_ids")
    return inputs if inputs is not None else input_ids


def _bos(config: GenerationConfig, device: torch.device) -> torch.Tensor:
    if config.bos_token_id is None:
        raise RequestError("input_ids: needed, as the model has no bos_token_id to start from", field="input_ids")
    return torch.tensor([[int(config.bos_token_id)]], device=device)


def _merge(
    given: GenerationConfig | None, defaults: GenerationConfig, arguments: Mapping[str, Any]
) -> tuple[GenerationConfig, dict[str, Any]]:
    """Merge as transformers does, with its checks and warnings; return also the fields that were set by anyone.

    Arguments lie over ``given``, which lies over ``defaults``; an argument that is None switches a field off.
    """
    if given is not None and not isinstance(given, GenerationConfig):
        raise RequestError(
            f"generation_config: a GenerationConfig is needed, but it is a {type(given).__name__}",
            field="generation_config",
        )
    config = copy.deepcopy(given) if given is not None else GenerationConfig()
    config.update(**defaults.to_dict(), defaults_only=True, allow_custom_entries=True)
    rest = {name: value for name, value in config.update(**arguments).items() if value is not None}
    for name, mode in NATIVE_KWARGS.items():
        if name in rest:
            raise NativeModeError(f"{mode} ({name}) is not batched by the engine")
    fields = {name: value for name, value in config.to_dict().items() if value is not None and name in KNOWN_FIELDS}
    fields |= {name: value for name, value in arguments.items() if name in KNOWN_FIELDS or name in rest}
    return config, fields


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    """One id, several, a tensor of them, or None, as a tuple. Raises RequestError where they are none."""
    if value is None:
        return ()
    plain = value.tolist() if isinstance(value, torch.Tensor) else value
    ids = tuple(plain) if isinstance(plain, list | tuple) else (plain,)
    if not all(isinstance(token, int) for token in ids):
        raise RequestError(f"{name}: token ids are integers, but it is {value!r:.80}", field=name)
    return ids


def _num_copies(num_return_sequences: Any) -> int:
    count = 1 if num_return_sequences is None else num_return_sequences
    if not isinstance(count, int) or count < 1:
        raise RequestError(
            f"num_return_sequences: an integer of 1 or more is needed, but it is {count!r}",
            field="num_return_sequences",
            limit="1",
        )
    return count


def _warn_of_lengths(config: GenerationConfig) -> None:
    if config.max_new_tokens is None and config.max_length is None:
        warnings.warn(
            "Neither max_new_tokens nor max_length is set, so 20 new tokens are generated; set max_new_tokens.",
            UserWarning,
            stacklevel=4,
        )
    if config.max_new_tokens is not None and config.max_length is not None:
        logger.warning(
            "max_new_tokens (%s) and max_length (%s) are both set; max_new_tokens counts.",
            config.max_new_tokens,
            config.max_length,
        )
