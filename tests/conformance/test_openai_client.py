"""The official ``openai`` client, sync, async and streaming, against a real cluster with drafts."""

import math
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from cluster.demo import TARGET_PATH
from tests.conformance.conftest import ClusterServer

PROMPT = "It was a dark night, and the"
TALK: list[Any] = [
    {"role": "system", "content": "They spoke by the fire."},
    {"role": "user", "content": "Who is there?"},
]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture
def client(served: ClusterServer) -> OpenAI:
    """As a user makes one."""
    return OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture
def async_client(served: ClusterServer) -> AsyncOpenAI:
    """The asynchronous one."""
    return AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=120)


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "demo-draft"]
    assert client.models.retrieve("demo").owned_by == "slipstream"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/other")


def test_drafts_by_name(client: OpenAI) -> None:
    def write(model: str = "demo", **extra: Any) -> str:
        answer = client.completions.create(
            model=model, prompt="It was a dark night", max_tokens=24, seed=3, extra_body=extra
        )
        assert answer.model == model
        return answer.choices[0].text

    ways: list[dict[str, Any]] = [
        {},
        {"assistant_model": "demo-draft"},
        {"assistant_model": "none"},
        {"prompt_lookup_num_tokens": 5, "max_matching_ngram_size": 3},
    ]
    assert len({write(**way) for way in ways}) == 1
    assert write("demo-draft") == write("demo-draft") != write()
    with pytest.raises(openai.BadRequestError) as refused:
        write(assistant_model="huge")
    assert refused.value.param == "assistant_model"
    assert "demo-draft" in refused.value.message


def test_completion(client: OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt=PROMPT, max_tokens=24, seed=7)
    choice = answer.choices[0]
    assert choice.text
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24
    again = client.completions.create(model="demo", prompt=PROMPT, max_tokens=24, seed=7)
    assert again.choices[0].text == choice.text
    undrafted = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=24, seed=7, extra_body={"num_assistant_tokens": 0}
    )
    assert undrafted.choices[0].text == choice.text


def test_completion_stream_with_usage(client: OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt=PROMPT, max_tokens=20, seed=1, n=2)
    stream = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=20, seed=1, n=2, stream=True, stream_options={"include_usage": True}
    )
    texts, reasons, last = ["", ""], [], None
    for chunk in stream:
        last = chunk
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert texts == [choice.text for choice in whole.choices]
    assert texts[0] != texts[1]
    assert reasons == ["length", "length"]
    assert last is not None
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 40


def test_completion_of_batches(client: OpenAI) -> None:
    texts = client.completions.create(model="demo", prompt=["Once", "She said"], max_tokens=5, temperature=0)
    ids = client.completions.create(model="demo", prompt=[_ids("Once"), _ids("She said")], max_tokens=5, temperature=0)
    assert [choice.text for choice in texts.choices] == [choice.text for choice in ids.choices]


def test_completion_logprobs_of_prompt_and_text(client: OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt=PROMPT, max_tokens=8, echo=True, logprobs=3, temperature=0)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert all(3 <= len(top) <= 4 for top in logprobs.top_logprobs[1:])
    greedy = [max(top.values()) for top in logprobs.top_logprobs[-8:]]
    assert logprobs.token_logprobs[-8:] == greedy
    scored = client.completions.create(
        model="demo", prompt=answer.choices[0].text, max_tokens=0, echo=True, logprobs=1
    ).choices[0]
    assert scored.logprobs is not None
    assert scored.logprobs.token_logprobs is not None
    assert scored.logprobs.token_logprobs[-8:] == pytest.approx(greedy, abs=1e-4)


def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=TALK, max_completion_tokens=24, seed=3, logprobs=True, top_logprobs=2
    )
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "length"
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content is not None
    assert len(content) == 24
    assert b"".join(bytes(entry.bytes or []) for entry in content).decode(errors="replace") == choice.message.content
    assert all(len(entry.top_logprobs) <= 2 for entry in content)
    assert all(math.exp(entry.logprob) <= 1 for entry in content)


def test_chat_stream(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="demo", messages=TALK, max_tokens=20, seed=3, n=2)
    roles, texts, reasons = ["", ""], ["", ""], ["", ""]
    with client.chat.completions.create(model="demo", messages=TALK, max_tokens=20, seed=3, n=2, stream=True) as stream:
        for chunk in stream:
            [choice] = chunk.choices
            assert not reasons[choice.index]
            roles[choice.index] += choice.delta.role or ""
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] += choice.finish_reason or ""
    assert roles == ["assistant", "assistant"]
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == ["length", "length"]


def test_chat_with_a_schema(client: OpenAI) -> None:
    import json

    import jsonschema

    answer = client.chat.completions.create(
        model="demo",
        messages=TALK,
        max_tokens=80,
        seed=5,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}},
    )
    assert answer.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), SCHEMA)


@pytest.mark.anyio
async def test_async_streams_side_by_side(async_client: AsyncOpenAI) -> None:
    import asyncio

    async def read(seed: int) -> str:
        stream = await async_client.chat.completions.create(
            model="demo", messages=TALK, max_tokens=16, seed=seed, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    texts = await asyncio.gather(*(read(seed) for seed in (1, 2, 3, 1)))
    assert texts[0] == texts[3]
    assert len(set(texts)) == 3
    answer = await async_client.completions.create(model="demo", prompt=PROMPT, max_tokens=4)
    assert answer.choices[0].text
    await async_client.close()


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({"max_tokens": -1}, openai.BadRequestError, "max_tokens"),
        ({"n": 1000}, openai.BadRequestError, "n"),
        ({"extra_body": {"max_tokns": 1}}, openai.UnprocessableEntityError, "max_tokns"),
        ({"temperature": "hot"}, openai.UnprocessableEntityError, "temperature"),
        ({"model": "gpt-9"}, openai.NotFoundError, "model"),
        ({"messages": [{"role": "user", "content": "a " * 5000}]}, openai.BadRequestError, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_clients_own(
    client: OpenAI, body: dict[str, Any], error: type[openai.APIStatusError], param: str, stream: bool
) -> None:
    arguments: dict[str, Any] = {"model": "demo", "messages": TALK, "stream": stream} | body
    with pytest.raises(error) as caught:
        client.chat.completions.create(**arguments)
    assert caught.value.param == param
    assert caught.value.body is not None


def _ids(text: str) -> list[int]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(TARGET_PATH / "tokenizer.json")).encode(text).ids)
