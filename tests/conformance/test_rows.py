"""The rest of the contract of ``generate``, row by row: what no other test here compares."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, StaticCache
from transformers.modeling_outputs import BaseModelOutput

from actors.engine.errors import RequestError
from tests.conformance.generate_matrix import Pair, prompts


def embedded(pair: Pair, rows: int) -> dict[str, Any]:
    ids, mask = prompts(rows)
    return {"inputs_embeds": pair[0].get_input_embeddings()(ids).detach(), "attention_mask": mask}


def compare(pair: Pair, arguments: dict[str, Any]) -> None:
    """Same ids; arguments that a call changes are made anew for each."""
    reference, ours = pair
    expected = reference.generate(**{"max_new_tokens": 7, **arguments})
    found: Any = ours.generate(**{"max_new_tokens": 7, **arguments})
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("more", [{}, {"num_beams": 2}, {"repetition_penalty": 1.3}])
@pytest.mark.parametrize("rows", [1, 4])
def test_embeddings(decoder: Pair, rows: int, more: dict[str, Any]) -> None:
    compare(decoder, {**embedded(decoder, rows), **more})


def test_embeddings_with_the_ids_that_they_stand_for(decoder: Pair) -> None:
    compare(decoder, {**embedded(decoder, 4), "input_ids": prompts(4)[0]})


@pytest.mark.parametrize("name", ["static", "dynamic", "paged"])
def test_named_caches(decoder: Pair, name: str) -> None:
    ids, mask = prompts(4)
    ours: Any = decoder[1].generate(ids, attention_mask=mask, cache_implementation=name, max_new_tokens=7)
    assert ours.equal(decoder[0].generate(ids, attention_mask=mask, max_new_tokens=7))


def test_a_paged_cache_is_the_engine_s_own(decoder: Pair) -> None:
    with pytest.raises(RequestError, match="paged"):
        decoder[1].generate(prompts(1)[0], cache_implementation="paged", guidance_scale=1.4, max_new_tokens=2)


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_a_cache_goes_on_where_it_was(decoder: Pair, kind: Any) -> None:
    """Two calls over one cache, the second with a longer prompt."""
    ids, _ = prompts(1)
    written = []
    each: tuple[Any, Any] = decoder
    for model in each:
        cache = kind(config=model.config, **({"max_cache_len": 64} if kind is StaticCache else {}))
        first = model.generate(ids, past_key_values=cache, max_new_tokens=4, eos_token_id=None)
        length = int(cache.get_seq_length())
        second = model.generate(torch.cat([first, ids], 1), past_key_values=cache, max_new_tokens=4)
        written.append((first.tolist(), length, second.tolist(), int(cache.get_seq_length())))
    assert written[0] == written[1]


def test_an_encoder_decoder_s_cache(encoder_decoder: Pair) -> None:
    ids, mask = prompts(4)
    lengths = []
    for model in encoder_decoder:
        config = model.config
        cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=5, eos_token_id=None)
        lengths.append(cache.get_seq_length())
    assert lengths[0] == lengths[1] > 0


@pytest.mark.parametrize("more", [{}, {"num_beams": 3}, {"do_sample": False, "num_beams": 2, "length_penalty": 0.3}])
def test_an_encoder_decoder_s_arguments(encoder_decoder: Pair, more: dict[str, Any]) -> None:
    ids, mask = prompts(4)
    started = {"input_ids": ids, "attention_mask": mask, **more}
    compare(encoder_decoder, {**started, "decoder_input_ids": torch.tensor([[0, 9], [0, 8], [0, 7], [0, 6]])})
    compare(encoder_decoder, {**started, "forced_bos_token_id": 17, "decoder_start_token_id": 3})
    states = encoder_decoder[0].get_encoder()(ids, attention_mask=mask).last_hidden_state.detach()
    each: tuple[Any, Any] = encoder_decoder
    expected, found = (  # beams repeat the rows of what they are given, in place
        model.generate(encoder_outputs=BaseModelOutput(states.clone()), attention_mask=mask, max_new_tokens=7, **more)
        for model in each
    )
    assert found.tolist() == expected.tolist()


def test_an_encoder_decoder_with_an_assistant(encoder_decoder: Pair) -> None:
    ids, mask = prompts(1)
    compare(encoder_decoder, {"inputs": ids, "attention_mask": mask, "assistant_model": encoder_decoder[0]})


@pytest.mark.parametrize("more", [{}, {"num_beams": 2}])
def test_time_that_is_over_at_once(decoder: Pair, more: dict[str, Any]) -> None:
    """The step that runs is finished, and no other begun."""
    ids, mask = prompts(4)
    arguments: dict[str, Any] = {"inputs": ids, "attention_mask": mask, "max_time": 1e-9, **more}
    found: Any = decoder[1].generate(**arguments, max_new_tokens=20)
    assert found.equal(decoder[0].generate(**arguments, max_new_tokens=20))
    assert found.shape[1] == ids.shape[1] + 1


def test_precedence(decoder: Pair) -> None:
    """An argument over the configuration that is given, that over the model's; None switches a default off."""
    reference, ours = decoder
    ids, _ = prompts(1)
    before = {model: model.generation_config for model in decoder}
    try:
        for model in decoder:
            model.generation_config = GenerationConfig(
                pad_token_id=0, repetition_penalty=1.9, max_new_tokens=9, no_repeat_ngram_size=1
            )
        given = GenerationConfig(pad_token_id=0, repetition_penalty=1.2)
        for more in ({}, {"no_repeat_ngram_size": None}, {"num_beams": 2, "no_repeat_ngram_size": None}):
            arguments: dict[str, Any] = {"generation_config": given, "max_new_tokens": 5, **more}
            assert ours.generate(ids, **arguments).equal(reference.generate(ids, **arguments))  # type: ignore[union-attr]
        assert given.max_new_tokens is None
    finally:
        for model, config in before.items():
            model.generation_config = config


def test_a_decoding_loop_of_the_caller_s_folder_has_to_be_trusted(decoder: Pair, tmp_path: Path) -> None:
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text(
        "def generate(model, inputs, **kwargs):\n    return inputs\n"
    )
    ids, _ = prompts(1)
    with pytest.raises(ValueError, match="trust_remote_code"):
        decoder[1].generate(ids, custom_generate=str(tmp_path), max_new_tokens=2, trust_remote_code=False)
    same: Any = decoder[1].generate(ids, custom_generate=str(tmp_path), trust_remote_code=True)
    assert same.equal(ids)


def test_code_from_the_hub_is_not_run(decoder: Pair) -> None:
    with pytest.raises(OSError, match="custom_generate"):
        decoder[1].generate(prompts(1)[0], custom_generate="someone/a-loop", trust_remote_code=True)
