"""Wrong calls: ``ClusterModel.generate`` raises what ``model.generate`` raises, and says which argument is meant."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    TextStreamer,
)

from actors.engine.errors import RequestError
from cluster.refusals import as_also, refusal_of
from tests.conformance.generate_matrix import Pair

ONE = torch.tensor([[5, 6, 7, 8]])
TWO = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
NAN = float("nan")
FAR = 999  # beyond the vocabulary


class Sink:
    def put(self, value: torch.Tensor) -> None:
        """Drop it."""

    def end(self) -> None:
        """Nothing to end."""


def nothing_to_come() -> GenerationConfig:
    config = GenerationConfig()
    config.max_new_tokens = 0
    return config


def sampled(**arguments: Any) -> dict[str, Any]:
    return {**arguments, "do_sample": True}


def beams(**arguments: Any) -> dict[str, Any]:
    return {**arguments, "num_beams": 2}


def guided(**arguments: Any) -> dict[str, Any]:
    return {**arguments, "guidance_scale": 1.5}


def until(length: Any) -> dict[str, Any]:
    return {"max_length": length, "max_new_tokens": None}


# Each a call that transformers refuses. The first argument is the one at fault.
WRONG: dict[str, dict[str, Any]] = {
    "misspelt": {"max_new_token": 3},
    "misspelt, beams": {"num_beam": 2},
    "unknown": {"bogus": 1},
    "unknown, beams": beams(bogus=1),
    "not the model's": {"pixel_values": torch.ones(1, 3)},
    "no new tokens": {"max_new_tokens": 0},
    "fewer than no new tokens": {"max_new_tokens": -1},
    "new tokens as text": {"max_new_tokens": "5"},
    "new tokens as a list": {"max_new_tokens": [3]},
    "prompt as long as it may be": until(4),
    "prompt longer than it may be": until(2),
    "negative length": until(-2),
    "length as text": until("9"),
    "min_new_tokens as text": {"min_new_tokens": "2"},
    "min_length as text": {"min_length": "2"},
    "several of a greedy search": {"num_return_sequences": 2},
    "more than there are beams": {"num_return_sequences": 3, "num_beams": 2},
    "number of sequences as text": sampled(num_return_sequences="2"),
    "no beams": {"num_beams": 0},
    "negative beams": {"num_beams": -1},
    "beams as text": {"num_beams": "2"},
    "half a beam": {"num_beams": 2.5},
    "early_stopping": beams(early_stopping="maybe"),
    "early_stopping, greedy": {"early_stopping": "maybe"},
    "length_penalty": beams(length_penalty="x"),
    "beam groups, removed": {"num_beam_groups": 2, "num_beams": 4, "diversity_penalty": 1.0},
    "constraints, removed": beams(constraints=[1]),
    "force_words_ids, removed": beams(force_words_ids=[[5]]),
    "contrastive search, removed": {"penalty_alpha": 0.6, "top_k": 4},
    "DoLa, removed": {"dola_layers": "high"},
    "temperature 0": sampled(temperature=0.0),
    "temperature below 0": sampled(temperature=-1.0),
    "temperature NaN": sampled(temperature=NAN),
    "temperature as text": sampled(temperature="hot"),
    "temperature as a tensor": sampled(temperature=torch.tensor(-1.0)),
    "top_k below 0": sampled(top_k=-1),
    "top_k as a fraction": sampled(top_k=2.5),
    "top_k as text": sampled(top_k="5"),
    "top_p below 0": sampled(top_p=-0.1),
    "top_p as text": sampled(top_p="x"),
    "min_p above 1": sampled(min_p=1.5),
    "min_p below 0": sampled(min_p=-0.5),
    "top_h": sampled(top_h=2.0),
    "typical_p 0": sampled(typical_p=0.0),
    "repetition_penalty 0": {"repetition_penalty": 0.0},
    "repetition_penalty below 0": {"repetition_penalty": -1.0},
    "repetition_penalty as text": {"repetition_penalty": "x"},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": -2.0},
    "no_repeat_ngram_size as text": {"no_repeat_ngram_size": "2"},
    "no_repeat_ngram_size as a fraction": {"no_repeat_ngram_size": 2.5},
    "bad_words_ids, none": {"bad_words_ids": []},
    "bad_words_ids, flat": {"bad_words_ids": [1, 2]},
    "bad_words_ids, negative": {"bad_words_ids": [[-1]]},
    "bad_words_ids as text": {"bad_words_ids": [["a"]]},
    "bad_words_ids, unknown id": {"bad_words_ids": [[FAR]]},
    "sequence_bias, none": {"sequence_bias": {}},
    "sequence_bias, keys": {"sequence_bias": {"a": 1.0}},
    "sequence_bias, unknown id": {"sequence_bias": {(FAR,): 1.0}},
    "sequence_bias as a list": {"sequence_bias": [1]},
    "suppress_tokens": {"suppress_tokens": "x"},
    "forced_eos_token_id, unknown id": {"forced_eos_token_id": FAR},
    "forced_eos_token_id as text": {"forced_eos_token_id": "a"},
    "length penalty that decays, a number": {"exponential_decay_length_penalty": 5},
    "length penalty that decays, half": {"exponential_decay_length_penalty": (1,)},
    "length penalty that decays, text": {"exponential_decay_length_penalty": ("a", "b")},
    "eos as text": {"eos_token_id": "a"},
    "pad as text": {"pad_token_id": "a"},
    "beams to a streamer": {"streamer": Sink(), "num_beams": 2},
    "not a streamer": {"streamer": 3},
    "two rows to a text streamer": {"streamer": TextStreamer(None), "inputs": TWO},  # type: ignore[arg-type]
    "stop_strings without a tokenizer": {"stop_strings": ["a"]},
    "stop_strings, a number": {"stop_strings": 5},
    "watermark, ratio": {"watermarking_config": {"greenlist_ratio": 2.0}},
    "watermark, field": {"watermarking_config": {"bogus": 2.0}},
    "watermark, scheme": {"watermarking_config": {"seeding_scheme": "x"}},
    "watermark as text": {"watermarking_config": "x"},
    "assistant as a foreign name": {"assistant_model": "gpt-17"},
    "assistant as a number": {"assistant_model": 5},
    "prompt lookup in a batch": {"prompt_lookup_num_tokens": 2, "inputs": TWO},
    "prompt lookup without a cache": {"prompt_lookup_num_tokens": 2, "use_cache": False},
    "processor, not a list": {"logits_processor": 5},
    "processor, not one": {"logits_processor": [5]},
    "criterion, not a list": {"stopping_criteria": 5},
    "criterion, not one": {"stopping_criteria": [5]},
    "allowed tokens, not a function": {"prefix_allowed_tokens_fn": 5},
    "allowed tokens, none": {"prefix_allowed_tokens_fn": lambda batch_id, ids: []},
    "mask too narrow": {"attention_mask": torch.ones(1, 3, dtype=torch.long)},
    "mask of more rows": {"attention_mask": torch.ones(2, 4, dtype=torch.long)},
    "mask of three dimensions": {"attention_mask": torch.ones(1, 4, 4, dtype=torch.long)},
    "mask of one dimension": {"attention_mask": torch.ones(4, dtype=torch.long)},
    "mask as a list": {"attention_mask": [[1, 1, 1, 1]]},
    "mask as text": {"attention_mask": "x"},
    "inputs twice": {"input_ids": ONE},
    "inputs as a list": {"inputs": [[5, 6]]},
    "inputs as text": {"inputs": "hello"},
    "inputs as a dictionary": {"inputs": {"input_ids": ONE}},
    "inputs of one dimension": {"inputs": torch.tensor([5, 6])},
    "inputs of no dimension": {"inputs": torch.tensor(5)},
    "inputs of three dimensions": {"inputs": torch.ones(1, 2, 3, dtype=torch.long)},
    "inputs as fractions": {"inputs": torch.ones(1, 3)},
    "inputs as truths": {"inputs": torch.ones(1, 3, dtype=torch.bool)},
    "prompt of no tokens": {"inputs": torch.zeros(1, 0, dtype=torch.long)},
    "no rows": {"inputs": torch.zeros(0, 4, dtype=torch.long)},
    "unknown id": {"inputs": torch.tensor([[5, FAR]])},
    "unknown id, beams": beams(inputs=torch.tensor([[5, FAR]])),
    "negative id": {"inputs": torch.tensor([[5, -1]])},
    "no inputs and no bos": {"bos_token_id": None, "inputs": None},
    "embeddings of another width": {"inputs_embeds": torch.ones(1, 3, 7), "inputs": None},
    "embeddings of two dimensions": {"inputs_embeds": torch.ones(3, 64), "inputs": None},
    "embeddings as text": {"inputs_embeds": "x", "inputs": None},
    "configuration as text": {"generation_config": "x"},
    "configuration as a dictionary": {"generation_config": {"max_new_tokens": 3}},
    "configuration that asks for nothing": {"generation_config": nothing_to_come(), "max_new_tokens": None},
    "unknown cache": {"cache_implementation": "bogus"},
    "cache as a number": {"cache_implementation": 5},
    "two caches": {"cache_implementation": "static", "past_key_values": DynamicCache()},
    "cache as text": {"past_key_values": "x"},
    "cache as tuples": {"past_key_values": ((1, 2),)},
    "guidance as text": {"guidance_scale": "x"},
    "negative prompts of more rows": guided(negative_prompt_ids=torch.zeros(3, 2, dtype=torch.long)),
    "negative prompts as a list": guided(negative_prompt_ids=[[1]]),
    "max_time as text": {"max_time": "x"},
    "custom_generate, a folder without": {"custom_generate": str(Path(__file__).parent)},
    "token_healing without a tokenizer": {"token_healing": True},
}

# Calls that transformers is content with, whatever they mean; so is the cluster, and with the same tokens.
TAKEN: dict[str, dict[str, Any]] = {
    "a fraction of a token": {"max_new_tokens": 2.5},
    "a fraction of a length": until(9.5),
    "fewer than no tokens at least": {"min_new_tokens": -1},
    "negative min_length": {"min_length": -3},
    "negative no_repeat_ngram_size": {"no_repeat_ngram_size": -1},
    "an empty bad word": {"bad_words_ids": [[]]},
    "an unknown id suppressed": {"suppress_tokens": [FAR, -1]},
    "an unknown id as eos": {"eos_token_id": FAR},
    "a fraction as eos": {"eos_token_id": 1.5},
    "a prompt that is all padding": {"attention_mask": torch.zeros(1, 4, dtype=torch.long)},
    "no time": {"max_time": 0},
    "do_sample as text": {"do_sample": "yes"},
    "top_p above 1": sampled(top_p=1.5),
    "top_p 0": sampled(top_p=0.0),
    "epsilon_cutoff above 1": sampled(epsilon_cutoff=1.5),
    "infinite temperature": sampled(temperature=float("inf")),
    "no sequences": {"num_return_sequences": 0},
    "no sequences, sampled": sampled(num_return_sequences=0),
    "prompt lookup with beams": beams(prompt_lookup_num_tokens=2),
    "early exit of a model without": {"assistant_early_exit": 2},
    "criterion twice": {"stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(9)])},
    "processor twice": {
        "repetition_penalty": 1.5,
        "logits_processor": LogitsProcessorList([RepetitionPenaltyLogitsProcessor(2.0)]),
    },
    "renormalize_logits as text": {"renormalize_logits": "x"},
}

# Calls that transformers refuses for how a number is written, or for a cache that the engine does not use: served.
SERVED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "whole temperature": (sampled(temperature=2), sampled(temperature=2.0)),
    "whole penalty": ({"repetition_penalty": 2}, {"repetition_penalty": 2.0}),
    "whole bias": ({"sequence_bias": {(5,): 3}}, {"sequence_bias": {(5,): 3.0}}),
    "ids of eight bits": ({"inputs": ONE.to(torch.int8)}, {"inputs": ONE}),
    "prefill_chunk_size": ({"prefill_chunk_size": 0}, {}),
    "synced_gpus": ({"synced_gpus": True}, {}),
}

ENCODER_DECODER_WRONG: dict[str, dict[str, Any]] = {
    "misspelt": {"decoder_input_id": ONE},
    "unknown id for the decoder": {"decoder_input_ids": torch.tensor([[FAR]])},
    "unknown id for the encoder": {"inputs": torch.tensor([[FAR]])},
    "no start": {"decoder_start_token_id": None, "bos_token_id": None},
    "encoder outputs as a number": {"encoder_outputs": 5},
    "decoder ids as text": {"decoder_input_ids": "x"},
    "no new tokens": {"max_new_tokens": 0},
    "several of a greedy search": {"num_return_sequences": 2},
    "beams to a streamer": {"streamer": Sink(), "num_beams": 2},
    "decoder starts, too many": {"decoder_start_token_id": [0, 0, 0]},
}


def call(model: Any, arguments: dict[str, Any], **more: Any) -> Any:
    return model.generate(**{"inputs": ONE, "max_new_tokens": 3, **arguments, **more})


def compare(pair: Pair, arguments: dict[str, Any]) -> None:
    reference, cluster = pair
    with pytest.raises(Exception) as theirs:
        call(reference, arguments)
    with pytest.raises(type(theirs.value)) as ours:
        call(cluster, arguments)
    message = str(ours.value)
    argument = next(iter(arguments))
    names = {argument, "input_ids"} if argument == "inputs" else {argument}
    assert message == str(theirs.value) or any(name in message for name in names)


@pytest.mark.parametrize("name", WRONG)
def test_same_class_and_as_clear(decoder: Pair, name: str) -> None:
    compare(decoder, WRONG[name])


@pytest.mark.parametrize("name", ENCODER_DECODER_WRONG)
def test_same_class_and_as_clear_of_encoder_decoders(encoder_decoder: Pair, name: str) -> None:
    compare(encoder_decoder, ENCODER_DECODER_WRONG[name])


@pytest.mark.parametrize("name", TAKEN)
def test_what_transformers_takes_is_taken(decoder: Pair, name: str) -> None:
    reference, cluster = decoder
    torch.manual_seed(5)
    assert call(cluster, TAKEN[name], seed=5).equal(call(reference, TAKEN[name]))


@pytest.mark.parametrize("name", SERVED)
def test_what_is_served_all_the_same(decoder: Pair, name: str) -> None:
    reference, cluster = decoder
    odd, plain = SERVED[name]
    with pytest.raises((ValueError, RuntimeError)):
        call(reference, odd)
    assert call(cluster, odd, seed=5).equal(call(cluster, plain, seed=5))


def test_the_cluster_s_own_fields_are_not_put_to_transformers(decoder: Pair) -> None:
    with pytest.raises(RequestError, match="logit_bias"):
        call(decoder[1], {"logit_bias": {FAR: 1.0}})
    with pytest.raises(RequestError, match="top_p") as caught:
        call(decoder[1], sampled(top_p=1.5, presence_penalty=0.5))
    assert caught.value.__cause__ is None


def test_a_wrong_call_leaves_the_model_as_it_was(decoder: Pair) -> None:
    reference, cluster = decoder
    assert call(cluster, {}).equal(call(reference, {}))


def test_a_refusal_in_another_class_keeps_field_and_limit() -> None:
    refusal = RequestError("top_k: too many", field="top_k", limit="3")
    assert as_also(refusal, ValueError("no")) is refusal
    other = as_also(refusal, torch.OutOfMemoryError("no"))  # a RuntimeError of torch's own
    assert isinstance(other, RuntimeError)
    assert (str(other), other.field, other.limit) == ("top_k: too many", "top_k", "3")
    assert refusal_of(TypeError) is refusal_of(TypeError)
