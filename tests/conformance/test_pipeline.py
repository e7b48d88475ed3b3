"""``transformers.pipeline`` over a ClusterModel gives what it gives over the model itself."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast, TextStreamer, pipeline

from actors.engine.errors import RequestError
from tests.actors.engine.tiny_models import tiny_tokenizer
from tests.conformance.generate_matrix import Pair

CHAT = [{"role": "user", "content": "who is there"}]
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{{ 'assistant: ' }}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    found = tiny_tokenizer(folder)
    found.chat_template = TEMPLATE
    return found


Writers = tuple[Any, Any]


@pytest.fixture(scope="module")
def writers(decoder: Pair, tokenizer: PreTrainedTokenizerFast) -> Writers:
    each: tuple[Any, Any] = decoder
    reference, ours = (pipeline("text-generation", model=model, tokenizer=tokenizer) for model in each)
    return reference, ours


CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "greedy": ("It was", {"do_sample": False}),
    "beams": ("It was", {"do_sample": False, "num_beams": 3, "num_return_sequences": 2}),
    "several, one after another": (["It was", "a dark night", "x"], {"do_sample": False}),
    "several in a batch": (["It was", "a dark night", "x"], {"do_sample": False, "batch_size": 3}),
    "new text only": ("It was", {"do_sample": False, "return_full_text": False}),
    "ids": ("It was", {"do_sample": False, "return_tensors": True}),
    "chat": (CHAT, {"do_sample": False}),
    "chats": ([CHAT, [*CHAT, {"role": "assistant", "content": "me"}, *CHAT]], {"do_sample": False}),
    "answer begun": ([*CHAT, {"role": "assistant", "content": "It is"}], {"do_sample": False}),
    "stop": ("It was", {"do_sample": False, "stop_sequence": "e"}),
}


@pytest.mark.parametrize("name", CALLS)
def test_same_texts(writers: Writers, name: str) -> None:
    prompts, arguments = CALLS[name]
    theirs, ours = (writer(prompts, max_new_tokens=9, **arguments) for writer in writers)
    assert ours == theirs


def test_sampled(writers: Writers) -> None:
    """By its defaults a pipeline samples. The engine has noise of its own, so only its way of seeding is compared."""
    texts = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        texts.append(writers[1]("It was", max_new_tokens=12)[0]["generated_text"])
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("It was")


def test_streamer(writers: Writers, tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for writer in writers:
        writer("It was", max_new_tokens=9, do_sample=False, streamer=TextStreamer(tokenizer, skip_prompt=True))
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != ""


def test_a_pipeline_knows_the_class(
    decoder: Pair, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "transformers"):
        writer = pipeline("text-generation", model=decoder[1], tokenizer=tokenizer)  # type: ignore[call-overload]
    assert not [record for record in caplog.records if "not supported" in record.message]
    assert repr(writer) == repr(pipeline("text-generation", model=decoder[0], tokenizer=tokenizer)).replace(
        "LlamaForCausalLM", "ClusterModel"
    )
    assert writer.device == decoder[1].device == torch.device("cpu")


def test_what_a_model_is_asked(decoder: Pair) -> None:
    reference, ours = decoder
    assert ours.eval() is ours
    assert ours.can_generate() is reference.can_generate() is True
    assert ours.training is reference.training is False
    assert ours.num_parameters() == reference.num_parameters()
    assert ours.dtype == reference.dtype
    assert ours.vocab_size == reference.vocab_size
    assert (Path(ours.name_or_path) / "config.json").is_file()
    for name in ("main_input_name", "input_modalities", "output_modalities"):
        assert getattr(ours, name) == getattr(reference, name)


def test_to_says_where_results_are_put(decoder: Pair) -> None:
    _, ours = decoder
    try:
        assert ours.to("meta") is ours
        assert ours.device == torch.device("meta")
        here: Any = ours.generate(torch.tensor([[5]]), max_new_tokens=2)
        assert here.device == torch.device("cpu"), "a result lies where its inputs lie"
        assert ours(torch.tensor([[5]])).logits.device == torch.device("cpu")
    finally:
        ours.to("cpu")
    with pytest.raises(RequestError, match="dtype"):
        ours.to(torch.float16)  # type: ignore[arg-type]
