"""``/generate``: transformers' fields, explicit ones over the model's defaults."""

import json
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from actors.engine.params import GenerationParams
from serve_app.generations import GenerateRequest
from tests.serve_app.fakes import TEXT, TOKENIZER, FakeClient, make_app

pytestmark = pytest.mark.anyio
Http = AsyncTestClient[Litestar]


async def post(http: Http, **body: Any) -> dict[str, Any]:
    """Post and expect success."""
    response = await http.post("/generate", json={"prompt": "Once", "max_new_tokens": 200} | body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_every_parameter_of_the_engine_is_a_field() -> None:
    assert set(GenerationParams.__struct_fields__) < set(GenerateRequest.__struct_fields__)


async def test_answer(http: Http) -> None:
    answer = await post(http, seed=3)
    [sequence] = answer["sequences"]
    assert sequence["text"] == TEXT
    assert sequence["token_ids"] == TOKENIZER.encode(TEXT)
    assert sequence["finish_reason"] == "stop"
    assert sequence["seed"] == answer["seed"] == 3
    assert 0 < sequence["num_accepted"] < sequence["num_drafted"]
    stats = sequence["stats"]
    assert stats["num_draft_tokens"] == sequence["num_drafted"]
    assert stats["num_accepted_tokens"] == sequence["num_accepted"] == sum(stats["num_accepted_tokens_per_pos"])
    assert stats["num_steps"] == stats["num_drafts"] == -(-len(sequence["token_ids"]) // 4)
    assert (stats["num_ahead_hits"], stats["num_branch_hits"], stats["wait_time"]) == (3, 1, 0.5)
    assert "".join(text for text, _ in sequence["segments"]) == TEXT


async def test_defaults_are_transformers_own(http: Http, fake: FakeClient) -> None:
    await http.post("/generate", json={"prompt": "Once"})
    params = fake.requests[0].params
    assert params.max_new_tokens == 20
    assert not params.do_sample
    assert params.eos_token_id == (0,)


async def test_explicit_fields_lie_over_the_models_defaults(fake: FakeClient) -> None:
    defaults = {"do_sample": True, "temperature": 0.5, "repetition_penalty": 1.5}
    async with AsyncTestClient(make_app(fake, defaults=defaults)) as http:
        await post(http)
        await post(http, do_sample=False, repetition_penalty=None)
    assert fake.requests[0].params.do_sample
    assert (fake.requests[0].params.temperature, fake.requests[0].params.repetition_penalty) == (0.5, 1.5)
    assert not fake.requests[1].params.do_sample
    assert fake.requests[1].params.repetition_penalty is None


async def test_spellings_of_transformers(http: Http, fake: FakeClient) -> None:
    await post(http, eos_token_id=5, stop_strings="x", bad_words_ids=[[1, 2]], sequence_bias=[[[3], 2.0]], min_length=9)
    params = fake.requests[0].params
    assert params.eos_token_id == (5,)
    assert params.stop_strings == ("x",)
    assert params.bad_words_ids == ((1, 2),)
    assert params.sequence_bias == (((3,), 2.0),)
    assert params.min_new_tokens == 9 - len(TOKENIZER.encode("Once"))


async def test_stop_strings_stay_in_the_text(http: Http) -> None:
    answer = await post(http, stop_strings=["zzz"])
    assert answer["sequences"][0]["text"] == TEXT


async def test_max_length_counts_the_prompt(http: Http, fake: FakeClient) -> None:
    await http.post("/generate", json={"input_ids": [1, 2, 3], "max_length": 10})
    assert fake.requests[0].params.max_new_tokens == 7


async def test_sequences_of_several_prompts(http: Http, fake: FakeClient) -> None:
    answer = await post(http, prompt=None, input_ids=[[1], [2, 3]], num_return_sequences=2, do_sample=True)
    assert [sequence["index"] for sequence in answer["sequences"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 3
    assert len({sequence["seed"] for sequence in answer["sequences"]}) == 2


async def test_stream(http: Http) -> None:
    response = await http.post("/generate", json={"prompt": "a", "max_new_tokens": 200, "stream": True, "logprobs": 1})
    *events, done, _ = response.text.split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert "".join(chunk["text"] for chunk in chunks) == TEXT
    assert [token_id for chunk in chunks for token_id in chunk["token_ids"]] == TOKENIZER.encode(TEXT)
    assert "seed" not in chunks[0]
    assert isinstance(chunks[-1]["seed"], int)
    assert len(chunks[0]["logprobs"]) == len(chunks[0]["token_ids"])
