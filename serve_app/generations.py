"""``/generate`` as data: the fields of ``transformers.GenerationConfig`` that are served, flat beside a prompt."""

import msgspec
from msgspec import UNSET, UnsetType

from actors.engine.request import TokenLogprobs
from actors.request_stats import RequestStats
from serve_app.generation_fields import GenerationFields
from serve_app.usage import Usage

PARAM_NAMES = frozenset(GenerationFields.__struct_fields__)

Ids = list[int | list[int]]


class GenerateRequest(GenerationFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt, how to answer, and generation parameters as ``model.generate`` takes them.

    Either ``prompt`` (a text or a list of texts) or ``input_ids`` (ids, or a list of lists). Parameters that are not in
    the body come from the model's generation defaults; an explicit null switches a default off. Stop strings stay in
    the text, as transformers leaves them there.

    Attributes:
        prompt: a text, or several; what an encoder reads, where the model has one.
        input_ids: the same as token ids.
        negative_prompt: for ``guidance_scale``, a text for all prompts or one for each.
        negative_prompt_ids: the same as token ids.
        decoder_input_ids: what an encoder-decoder's decoder continues, ids for all prompts or a list for each.
        model: the served model's name; it may be left out.
        stream: answer as server-sent events.
    """

    prompt: str | list[str] | None = None
    input_ids: Ids | None = None
    negative_prompt: str | list[str] | None = None
    negative_prompt_ids: Ids | None = None
    decoder_input_ids: Ids | None = None
    model: str | None = None
    stream: bool = False


class GeneratedSequence(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence, or what one step added to it. Sequences of one prompt follow one another.

    Attributes:
        segments: (text, whether a drafted token wrote it), in order, the whole of ``text``.
        seed: reproduces this sequence alone; in a stream it comes with the last chunk, and so does ``stats``. Where
            transformers' own code
            ran the request, only its sequences together have a seed, that of the answer.
        score: a beam's log-probability over its length, for a beam search with output_scores.
        stats: what drafting did for this sequence.
        logprobs: per token (its log-probability, [(id, log-probability) of the most probable ones]).
        prompt_logprobs: the same for the prompt's tokens from the second on; in a stream with the first chunk.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    num_drafted: int
    num_accepted: int
    segments: tuple[tuple[str, bool], ...]
    finish_reason: str | None = None
    seed: int | UnsetType = UNSET
    score: float | UnsetType = UNSET
    stats: RequestStats | UnsetType = UNSET
    logprobs: tuple[TokenLogprobs, ...] | UnsetType = UNSET
    prompt_logprobs: tuple[TokenLogprobs, ...] | UnsetType = UNSET


class GenerateResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer. ``seed`` is the request's own, or the one that was drawn for it."""

    id: str
    model: str
    seed: int
    sequences: list[GeneratedSequence]
    usage: Usage


class PackedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor in msgpack: ``data`` is its numbers in little-endian order, row by row, ``dtype`` numpy's name."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class PackedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer in msgpack. In safetensors it is the same, ``answer`` being JSON in the metadata.

    Attributes:
        answer: as in JSON.
        tensors: ``sequences`` (prompts and new tokens, padded as transformers pads them), and those asked for:
            ``sequences_scores``, ``beam_indices``, ``scores.3`` (step 3), ``attentions.3.1`` (step 3, layer 1).
    """

    answer: GenerateResponse
    tensors: dict[str, PackedTensor]
