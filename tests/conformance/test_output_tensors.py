"""Output objects of every mode: the same fields, tuples and numbers as transformers', caches too."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList
from transformers.cache_utils import Cache, EncoderDecoderCache

from tests.conformance.generate_matrix import NoSevens, Pair, alike, both, prompts

ASKED = dict.fromkeys(
    ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states"), True
)
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 9, "logits_processor": LogitsProcessorList([NoSevens()])},
    "several samples": {"do_sample": True, "num_return_sequences": 2, "temperature": 0.7, "output_scores": True},
    "beam search": {"num_beams": 3, "num_return_sequences": 2},
    "beam sampling": {"num_beams": 3, "do_sample": True, "top_k": 9},
    "guidance": {"guidance_scale": 1.4},
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
    "without a cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
}
ONE_ROW: dict[str, dict[str, Any]] = {
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
    "assistant": {"assistant_model": None},
}


@pytest.fixture(scope="module")
def decoder() -> Iterator[Pair]:
    with both("llama", "fp32") as found:
        found[0].set_attn_implementation("eager")
        yield found


@pytest.fixture(scope="module", params=["t5", "bart"])
def encoder_decoder(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with both(request.param, "fp32") as found:
        found[0].set_attn_implementation("eager")
        yield found


def tensors(cache: Any) -> Any:
    """The keys and values of a cache."""
    if isinstance(cache, EncoderDecoderCache):
        return tensors(cache.self_attention_cache), tensors(cache.cross_attention_cache)
    return tuple((layer.keys, layer.values) for layer in cache.layers)


def compare(pair: Pair, arguments: dict[str, Any], rows: int) -> None:
    reference, ours = pair
    ids, mask = prompts(rows)
    arguments = {"attention_mask": mask, "max_new_tokens": 6, **arguments}
    torch.manual_seed(23)
    want = reference.generate(ids, **arguments)
    found: Any = ours.generate(ids, seed=23, **arguments)
    assert [name for name in found if name not in ("seed", "stats")] == list(want)
    assert isinstance(found, type(want))
    for name in want:
        if isinstance(want[name], Cache):
            assert type(found[name]) is type(want[name])
            assert alike(tensors(want[name]), tensors(found[name])), name
        else:
            assert alike(want[name], found[name]), name
    if want.get("scores") is None or len(want.scores) != want.sequences.shape[1] - ids.shape[1]:
        return
    chosen = [
        model.compute_transition_scores(output.sequences, output.scores, output.get("beam_indices"))
        for model, output in ((reference, want), (ours, found))
    ]
    assert alike(chosen[0], chosen[1])


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("mode", MODES)
def test_decoders(decoder: Pair, mode: str, rows: int) -> None:
    compare(decoder, {**ASKED, **MODES[mode]}, rows)


@pytest.mark.parametrize("mode", ONE_ROW)
def test_decoders_with_help(decoder: Pair, mode: str) -> None:
    arguments = ONE_ROW[mode]
    if mode == "assistant":
        arguments = {"assistant_model": decoder[0]}
    compare(decoder, {**ASKED, **arguments}, rows=1)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "guidance"])
def test_encoder_decoders(encoder_decoder: Pair, mode: str) -> None:
    compare(encoder_decoder, {**ASKED, **MODES[mode]}, rows=4)


@pytest.mark.parametrize("rows", [1, 4])
def test_the_cache_of_what_the_engine_ran(decoder: Pair, rows: int) -> None:
    """Nothing but sequences is asked for, so the engine runs it; keys and values are computed when they are read."""
    ids, mask = prompts(rows)
    decoder[0].set_attn_implementation("sdpa")  # what nobody attends to differs between implementations
    try:
        compare(decoder, {"return_dict_in_generate": True}, rows)
    finally:
        decoder[0].set_attn_implementation("eager")
    without: Any = decoder[1].generate(
        ids, attention_mask=mask, return_dict_in_generate=True, use_cache=False, max_new_tokens=2
    )
    assert without.past_key_values is None
