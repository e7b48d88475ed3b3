"""``/generate`` against ``model.generate`` of the same weights: every mode, its text, its tensors, its refusals."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.numpy import load
from transformers import LogitsProcessorList, StoppingCriteriaList, WatermarkingConfig
from transformers.generation.configuration_utils import SynthIDTextWatermarkingConfig

from actors.engine.declared_generation import pad_rows
from cluster.tensor_names import nest
from serve_app.generations import PackedAnswer
from tests.actors.engine.tiny_models import VOCAB_SIZE
from tests.conformance.http_cluster import HttpCluster, http_cluster, tokenizer
from tests.operator_processors import BanEvery, EndAtLength

pytestmark = pytest.mark.anyio
NUM_NEW = 8
TENSORS = "application/x-safetensors"
PROMPTS = tuple(
    tuple(3 + (31 * row + 17 * n) % (VOCAB_SIZE - 3) for n in range(length)) for row, length in enumerate((9, 4, 7, 2))
)
OUTPUTS: dict[str, Any] = dict.fromkeys(
    ("output_scores", "output_logits", "output_attentions", "output_hidden_states"), True
)
SYNTH_ID = {"ngram_len": 3, "keys": [5, 7], "sampling_table_size": 64, "context_history_size": 16}

# What is posted, and in its place what transformers takes, where these differ.
MODES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "greedy": ({}, {}),
    "penalties": ({"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4}, {}),
    "beams": ({"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.7, "output_scores": True}, {}),
    "beams, early": ({"num_beams": 2, "early_stopping": True, "min_new_tokens": 4, "bad_words_ids": [[9], [4, 5]]}, {}),
    "beams, never early": ({"num_beams": 2, "early_stopping": "never", "max_new_tokens": 5}, {}),
    "beams, biased": ({"num_beams": 2, "sequence_bias": [[[9], 3.0]], "forced_eos_token_id": 2}, {}),
    "beams, sampled": (
        {"num_beams": 3, "do_sample": True, "top_k": 9, "temperature": 1.5, "output_scores": True},
        {},
    ),
    "beams, static cache": ({"num_beams": 2, "cache_implementation": "static"}, {}),
    "beams, no cache": ({"num_beams": 2, "use_cache": False}, {}),
    "guidance": ({"guidance_scale": 1.4}, {}),
    "prompt lookup": ({"prompt_lookup_num_tokens": 2, "max_matching_ngram_size": 2}, {}),
    "watermark": ({"watermarking_config": {"bias": 4.0}}, {"watermarking_config": WatermarkingConfig(bias=4.0)}),
    "SynthID": (
        {"watermarking_config": SYNTH_ID, "do_sample": True},
        {"watermarking_config": SynthIDTextWatermarkingConfig(**SYNTH_ID)},  # type: ignore[arg-type]
    ),
    "tensors": (OUTPUTS, {}),
    "tensors, sampled": ({**OUTPUTS, "do_sample": True, "num_return_sequences": 2, "top_p": 0.9}, {}),
    "tensors, beams": ({**OUTPUTS, "num_beams": 2}, {}),
    "named": (
        {
            "num_beams": 2,
            "output_scores": True,
            "logits_processors": [{"name": "ban_every", "args": {"step": 3}}],
            "stopping_criteria": [{"name": "end_at_length", "args": {"num_tokens": 12}}],
        },
        {
            "logits_processors": None,
            "logits_processor": LogitsProcessorList([BanEvery(3)]),
            "stopping_criteria": StoppingCriteriaList([EndAtLength(12)]),
        },
    ),
}


@pytest.fixture(scope="module", params=["llama", "t5", "bart"])
def both(request: pytest.FixtureRequest) -> Iterator[HttpCluster]:
    with http_cluster(request.param) as found:
        yield found


@pytest.fixture(scope="module")
def llama() -> Iterator[HttpCluster]:
    with http_cluster("llama") as found:
        yield found


async def post(cluster: HttpCluster, accept: str = TENSORS, **body: Any) -> Any:
    """The response to a request."""
    async with cluster.serving() as http:
        given = {name: value for name, value in ({"max_new_tokens": NUM_NEW} | body).items() if value is not None}
        return await http.post("/generate", json=given, headers={"accept": accept})


def read(response: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer and the fields of a response with tensors."""
    assert response.status_code == 200, response.text
    fields = nest(load(response.content))
    answer: dict[str, Any] = json.loads(metadata(response.content)["answer"])
    return answer, fields


def metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return found


def expected(cluster: HttpCluster, rows: int, **arguments: Any) -> Any:
    """What transformers returns for the first prompts."""
    ids, mask = pad_rows(PROMPTS[:rows], 0, is_left=not cluster.is_encoder_decoder)
    if arguments.get("guidance_scale"):
        negative, negative_mask = pad_rows(PROMPTS[:rows][::-1], 0, is_left=True)
        arguments |= {"negative_prompt_ids": negative, "negative_prompt_attention_mask": negative_mask}
    attention = "eager" if arguments.get("output_attentions") else "sdpa"
    cluster.reference.set_attn_implementation(attention)
    torch.manual_seed(23)
    return cluster.reference.generate(ids, attention_mask=mask, return_dict_in_generate=True, **arguments)


def alike(want: Any, got: Any) -> bool:
    """The same structure, and numbers within 1e-4."""
    if isinstance(want, torch.Tensor):
        return want.shape == got.shape and np.allclose(want.numpy(), got, atol=1e-4, rtol=1e-4, equal_nan=True)
    return len(want) == len(got) and all(alike(a, b) for a, b in zip(want, got, strict=True))


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("mode", MODES)
async def test_results_are_those_of_transformers(both: HttpCluster, mode: str, rows: int) -> None:
    body, own = MODES[mode]
    if mode == "prompt lookup" and rows > 1:
        pytest.skip("transformers refuses batches in this mode")
    if mode == "guidance" and both.is_encoder_decoder:
        pytest.skip("transformers has it for decoders only")
    if mode == "guidance":
        body = body | {"negative_prompt_ids": PROMPTS[:rows][::-1]}
    want = expected(both, rows, **{"max_new_tokens": NUM_NEW} | MODES[mode][0] | own)
    answer, fields = read(await post(both, input_ids=PROMPTS[:rows], seed=23, **body))
    names = {name for name in want if name != "past_key_values" and want[name] not in (None, ())}
    assert names <= set(fields) <= names | {"sequences_scores", "beam_indices"}, "the engine has scores in any case"
    assert fields["sequences"].tolist() == want.sequences.tolist()
    assert [name for name in names if not alike(want[name], fields[name])] == []
    check_text(both, answer, want, rows)


def check_text(cluster: HttpCluster, answer: dict[str, Any], want: Any, rows: int) -> None:
    """The answer says in text and ids what its sequences say."""
    start = 1 if cluster.is_encoder_decoder else max(map(len, PROMPTS[:rows]))
    scores = want.get("sequences_scores")
    for index, (sequence, row) in enumerate(zip(answer["sequences"], want.sequences.tolist(), strict=True)):
        assert sequence["index"] == index
        new = row[start:]
        assert new[: len(sequence["token_ids"])] == sequence["token_ids"]
        assert set(new[len(sequence["token_ids"]) :]) <= {0}
        assert sequence["text"] == tokenizer().decode(sequence["token_ids"], skip_special_tokens=True)
        assert sequence["finish_reason"] == ("stop" if sequence["token_ids"][-1] == 2 else sequence["finish_reason"])
        if scores is not None:
            assert sequence["score"] == pytest.approx(float(scores[index]), abs=1e-4)


async def test_a_decoder_continues_what_it_is_given(both: HttpCluster) -> None:
    if not both.is_encoder_decoder:
        response = await post(both, "*/*", input_ids=PROMPTS[0], num_beams=2, decoder_input_ids=[0, 5])
        assert response.json()["error"]["param"] == "decoder_input_ids"
        return
    want = expected(both, 2, max_new_tokens=NUM_NEW, num_beams=2, decoder_input_ids=torch.tensor([[0, 5, 9]] * 2))
    answer, fields = read(await post(both, input_ids=PROMPTS[:2], num_beams=2, decoder_input_ids=[0, 5, 9]))
    assert fields["sequences"].tolist() == want.sequences.tolist()
    assert answer["sequences"][0]["token_ids"][:2] == want.sequences[0, 3:5].tolist()


async def test_text_in_and_out(llama: HttpCluster) -> None:
    answer = (await post(llama, "*/*", prompt="the sea", num_beams=2, num_return_sequences=2)).json()
    ids = torch.tensor([tokenizer()("the sea").input_ids])
    want = llama.reference.generate(ids, max_new_tokens=NUM_NEW, num_beams=2, num_return_sequences=2)
    texts = [tokenizer().decode(row, skip_special_tokens=True) for row in want[:, ids.shape[1] :]]
    assert [sequence["text"] for sequence in answer["sequences"]] == texts
    assert answer["usage"]["prompt_tokens"] == ids.shape[1]


async def test_token_healing(llama: HttpCluster) -> None:
    """The byte-level tokenizer has no longer tokens to heal with, so only the way there is looked at."""
    answer = (await post(llama, "*/*", prompt="the sea", token_healing=True)).json()
    ids = torch.tensor([tokenizer()("the sea").input_ids])
    want = llama.reference.generate(ids, max_new_tokens=NUM_NEW, token_healing=True, tokenizer=tokenizer())
    assert answer["sequences"][0]["token_ids"] == want[0, ids.shape[1] :].tolist()


async def test_msgpack_says_the_same_as_safetensors(llama: HttpCluster) -> None:
    body: dict[str, Any] = {"input_ids": PROMPTS[:2], "num_beams": 2, **OUTPUTS}
    answer, fields = read(await post(llama, **body))
    response = await post(llama, "application/msgpack", **body)
    assert response.headers["content-type"].startswith("application/msgpack")
    packed = msgspec.msgpack.decode(response.content, type=PackedAnswer)
    arrays = {n: np.frombuffer(t.data, t.dtype).reshape(t.shape) for n, t in packed.tensors.items()}
    assert [s.token_ids for s in packed.answer.sequences] == [tuple(s["token_ids"]) for s in answer["sequences"]]
    assert alike(torch.tensor(fields["attentions"][1][2]), arrays["attentions.1.2"])
    assert nest(arrays).keys() == fields.keys()


@pytest.mark.parametrize("body", [{"prompt_lookup_num_tokens": 2}, {"guidance_scale": 1.4, "negative_prompt": "no"}])
async def test_streams(llama: HttpCluster, body: dict[str, Any]) -> None:
    whole = (await post(llama, "*/*", input_ids=PROMPTS[0], **body)).json()["sequences"][0]
    response = await post(llama, "*/*", input_ids=PROMPTS[0], stream=True, **body)
    *events, done, _ = response.text.split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert [token for chunk in chunks for token in chunk["token_ids"]] == whole["token_ids"]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    assert chunks[-1]["finish_reason"] == whole["finish_reason"]
    assert len(chunks) > 2


async def test_an_encoder_decoder_streams_and_samples(both: HttpCluster) -> None:
    if not both.is_encoder_decoder:
        pytest.skip("the engine streams decoders")
    body = {"input_ids": PROMPTS[1], "do_sample": True, "seed": 23}
    want = expected(both, 2, max_new_tokens=NUM_NEW, do_sample=True)
    answer, fields = read(await post(both, input_ids=PROMPTS[:2], do_sample=True, seed=23))
    assert fields["sequences"].tolist() == want.sequences.tolist()
    assert answer["seed"] == 23
    whole = (await post(both, "*/*", **body)).json()["sequences"][0]
    response = await post(both, "*/*", stream=True, **body)
    chunks = [json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n")[:-2]]
    assert [token for chunk in chunks for token in chunk["token_ids"]] == whole["token_ids"]


BAD: list[tuple[dict[str, Any], int, str, str]] = [
    ({"output_logits": True}, 406, "output_logits", "application/x-safetensors"),
    ({"output_scores": True}, 406, "output_scores", "application/msgpack"),
    ({"output_hidden_states": True, "stream": True}, 400, "output_hidden_states", "stream"),
    ({"num_beams": 2, "stream": True}, 400, "stream", "beam search"),
    ({"num_beams": 9}, 400, "num_beams", "8"),
    ({"num_beams": 0}, 400, "num_beams", ">= 1"),
    ({"num_beams": 2.5}, 422, "num_beams", "int"),
    ({"num_beams": 2, "num_return_sequences": 3}, 400, "num_return_sequences", "there are 2 beams"),
    ({"num_beams": 2, "early_stopping": "maybe"}, 400, "early_stopping", "maybe"),
    ({"guidance_scale": 2.0, "logprobs": 1}, 400, "logprobs", "guidance"),
    ({"num_beams": 2, "grammar": {"kind": "regex", "pattern": "a+"}}, 400, "grammar", "not together with num_beams"),
    ({"num_beams": 2, "eos_token_id": VOCAB_SIZE}, 400, "eos_token_id", str(VOCAB_SIZE - 1)),
    ({"num_beams": 2, "bad_words_ids": [[VOCAB_SIZE]]}, 400, "bad_words_ids", str(VOCAB_SIZE - 1)),
    ({"negative_prompt": "x"}, 400, "negative_prompt", "guidance_scale"),
    ({"guidance_scale": 2.0, "negative_prompt_ids": [[5], [6]]}, 400, "negative_prompt", "1"),
    ({"guidance_scale": 2.0, "negative_prompt": "x", "negative_prompt_ids": [5]}, 400, "negative_prompt", "one of"),
    ({"decoder_input_ids": [5]}, 400, "decoder_input_ids", "no encoder"),
    ({"watermarking_config": {"bais": 1.0}}, 422, "bais", "unknown"),
    ({"watermarking_config": {"greenlist_ratio": 2}}, 400, "watermarking_config.greenlist_ratio", "<= 1.0"),
    ({"cache_implementation": "mine"}, 400, "cache_implementation", "mine"),
    ({"token_healing": True, "stream": True}, 400, "stream", "token_healing"),
    ({"custom_generate": "a/b"}, 422, "custom_generate", "code is never taken"),
    ({"prefix_allowed_tokens_fn": "f"}, 422, "prefix_allowed_tokens_fn", "code is never taken"),
    ({"logits_processor": ["f"]}, 422, "logits_processor", "logits_processors"),
    ({"compile_config": {}}, 422, "compile_config", "operator"),
    ({"penalty_alpha": 0.6}, 422, "penalty_alpha", "no longer"),
    ({"num_beam_groups": 2}, 422, "num_beam_groups", "no longer"),
    ({"logits_processors": ["ban_odd"]}, 422, "logits_processors[0]", "object"),
    ({"logits_processors": [{"name": "os.system"}]}, 400, "logits_processors", "only ban_every"),
    ({"logits_processors": [{"name": "ban_every"}]}, 400, "logits_processors", "step"),
    ({"stopping_criteria": [{"name": "ban_odd"}]}, 400, "stopping_criteria", "not a stopping criterion"),
    ({"stopping_criteria": [{"name": "nope"}], "num_beams": 2}, 400, "stopping_criteria", "only ban_every"),
    ({"logits_processors": [{"name": "ban_odd"}] * 17}, 400, "logits_processors", "16"),
    ({"logits_processors": [{"name": "failing_processor", "args": {"num_tokens": 1}}]}, 500, "", "nothing to divide"),
    (
        {"num_beams": 2, "stopping_criteria": [{"name": "failing_criterion", "args": {"num_tokens": 1}}]},
        500,
        "",
        "failing_criterion: ZeroDivisionError: nothing to divide by",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "field", "words"), BAD, ids=str)
async def test_bad_input_names_field_and_limit(
    llama: HttpCluster, body: dict[str, Any], status: int, field: str, words: str
) -> None:
    response = await post(llama, "application/json", **{"input_ids": [5, 6], **body})
    error = response.json()["error"]
    assert (response.status_code, error["param"] or "") == (status, field), error
    assert words in error["message"]
    after = await post(llama, "*/*", input_ids=[5, 6], num_beams=2, max_new_tokens=2)
    assert after.status_code == 200


async def test_tensors_are_bounded_before_anything_runs(llama: HttpCluster) -> None:
    body: dict[str, Any] = {"input_ids": PROMPTS, "max_new_tokens": 400}
    body |= {"output_scores": True, "output_attentions": True}
    error = (await post(llama, **body)).json()["error"]
    assert error["param"] == "output_attentions"
    assert "max_output_bytes" in error["message"]
    assert str(8 * 2**20) in error["message"]


async def test_the_bound_is_never_below_what_comes(both: HttpCluster) -> None:
    from actors.engine.output_size import output_sizes

    extras: list[dict[str, Any]] = [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}]
    for extra in extras:
        _, fields = read(await post(both, input_ids=PROMPTS, **(OUTPUTS | extra)))
        wishes = both.reference.generation_config.__class__(max_new_tokens=NUM_NEW, **OUTPUTS, **extra)
        bound = output_sizes(wishes, both.reference.config, num_rows=4, width=9)
        groups = {"output_attentions": "attentions", "output_hidden_states": "hidden_states"}
        groups |= {"output_scores": "scores", "output_logits": "logits"}
        for field, word in groups.items():
            size = sum(total(value) for name, value in fields.items() if word in name and name != "sequences_scores")
            assert 0 < size <= bound[field], (field, extra)


def total(value: Any) -> int:
    return sum(map(total, value)) if isinstance(value, tuple) else int(value.nbytes)


async def test_beams_in_the_engine_follow_names_and_lengths(llama: HttpCluster) -> None:
    """Each prompt for itself, where a batch of transformers counts its padding."""
    _, own = MODES["named"]
    body = MODES["named"][0] | {"output_scores": None, "max_length": 20, "max_new_tokens": None}
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        want = llama.reference.generate(ids, attention_mask=mask, max_length=20, num_beams=2, **own)
        answer, fields = read(await post(llama, input_ids=prompt, **body))
        assert fields["sequences"].tolist() == want.tolist()
        assert fields["sequences_scores"].tolist() == pytest.approx([answer["sequences"][0]["score"]])


async def test_named_processors_in_the_engine(llama: HttpCluster) -> None:
    answer, fields = read(
        await post(
            llama,
            input_ids=PROMPTS,
            logits_processors=[{"name": "ban_odd"}],
            stopping_criteria=[{"name": "end_at_length", "args": {"num_tokens": 11}}],
        )
    )
    lengths = [min(NUM_NEW, max(1, 11 - len(prompt))) for prompt in PROMPTS]
    assert [len(sequence["token_ids"]) for sequence in answer["sequences"]] == lengths
    assert [sequence["finish_reason"] for sequence in answer["sequences"]] == [
        "stop" if length < NUM_NEW else "length" for length in lengths
    ]
    assert fields["sequences"].shape == (4, 9 + NUM_NEW)
    assert all(token % 2 == 0 for sequence in answer["sequences"] for token in sequence["token_ids"])


def test_quantized_models_give_the_same() -> None:
    """One cell of each kind on NF4; the matrix for Python has them all."""
    import asyncio

    with http_cluster("llama", "nf4") as cluster:
        want = expected(cluster, 4, max_new_tokens=NUM_NEW, num_beams=3, output_scores=True)
        _, fields = read(asyncio.run(post(cluster, input_ids=PROMPTS, num_beams=3, output_scores=True)))
    assert fields["sequences"].tolist() == want.sequences.tolist()
    assert alike(want.sequences_scores, fields["sequences_scores"])
