"""``/v1/chat/completions``: OpenAI's shapes, plain and streamed."""

import json
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from actors.engine.grammar import ChoiceGrammar, JsonObjectGrammar, JsonSchemaGrammar
from serve_app.gateway import Gateway
from serve_app.web import build_web_app
from tests.serve_app.fakes import LIMITS, MODEL, TEXT, TOKENIZER, FakeClient

pytestmark = pytest.mark.anyio
Http = AsyncTestClient[Litestar]
URL = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
WRITTEN = "[user]Hello[assistant]"


async def post(http: Http, **body: Any) -> dict[str, Any]:
    """Post and expect success."""
    response = await http.post(URL, json={"messages": HELLO} | body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def stream(http: Http, **body: Any) -> list[dict[str, Any]]:
    """Post, expect a whole stream and return its chunks."""
    response = await http.post(URL, json={"messages": HELLO, "stream": True} | body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def prompt_of(fake: FakeClient) -> str:
    """What the model was given."""
    return TOKENIZER.decode(fake.requests[-1].prompt_token_ids, skip_special_tokens=False)


async def test_plain_answer_has_openais_shape(http: Http, fake: FakeClient) -> None:
    answer = await post(http, model=MODEL)
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    num_tokens = [len(TOKENIZER.encode(text)) for text in (WRITTEN, TEXT)]
    assert answer["usage"] == {
        "prompt_tokens": num_tokens[0], "completion_tokens": num_tokens[1], "total_tokens": sum(num_tokens),
    }  # fmt: skip
    assert prompt_of(fake) == WRITTEN


async def test_without_a_limit_the_context_is_one(http: Http, fake: FakeClient) -> None:
    await post(http)
    assert fake.requests[0].params.max_new_tokens == 256 - len(TOKENIZER.encode(WRITTEN))
    await post(http, max_tokens=9)
    await post(http, max_tokens=9, max_completion_tokens=5)
    assert [request.params.max_new_tokens for request in fake.requests[1:]] == [9, 5]


async def test_stream_is_openais_chunk_by_chunk(http: Http) -> None:
    first, *middle, last = await stream(http)
    assert set(first) == {"id", "object", "created", "model", "choices"}
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert all(set(chunk["choices"][0]["delta"]) == {"content"} for chunk in middle)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in middle)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle) == TEXT
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert len({chunk["id"] for chunk in (first, *middle, last)}) == 1


async def test_stream_of_several_answers(http: Http) -> None:
    chunks = [chunk["choices"][0] for chunk in await stream(http, n=3)]
    for index in range(3):
        first, *middle, last = [choice for choice in chunks if choice["index"] == index]
        assert first["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"]["content"] for choice in middle) == TEXT
        assert (last["delta"], last["finish_reason"]) == ({}, "stop")
        assert all(choice["finish_reason"] is None for choice in (first, *middle))


async def test_stream_with_usage(http: Http) -> None:
    *chunks, last = await stream(http, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == len(TOKENIZER.encode(TEXT))
    counted = await stream(http, stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [chunk["usage"]["completion_tokens"] for chunk in counted]
    assert counts == sorted(counts)
    assert counted[-1]["usage"] == last["usage"]


async def test_logprobs(http: Http) -> None:
    content = (await post(http, logprobs=True, top_logprobs=2))["choices"][0]["logprobs"]["content"]
    assert len(content) == len(TOKENIZER.encode(TEXT))
    assert b"".join(bytes(entry["bytes"]) for entry in content).decode() == TEXT
    assert content[0]["token"] == " The"
    assert content[0]["logprob"] == -0.5
    assert [top["token"] for top in content[0]["top_logprobs"]] == [
        " The",
        TOKENIZER.decode([1], skip_special_tokens=False),
    ]
    parts = [token for token in content if "\\x" in token["token"]]
    assert parts  # of a character that spreads over tokens
    assert all(bytes(part["bytes"]).decode(errors="backslashreplace") == part["token"] for part in parts)
    chunks = await stream(http, logprobs=True)
    streamed = [entry for chunk in chunks for entry in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert streamed == [entry | {"top_logprobs": []} for entry in content]
    named = await post(http, logprobs=True, return_tokens_as_token_ids=True)
    first = TOKENIZER.encode(TEXT)[0]
    assert named["choices"][0]["logprobs"]["content"][0]["token"] == f"token_id:{first}"


async def test_prompt_logprobs(http: Http) -> None:
    found = (await post(http, prompt_logprobs=1))["prompt_logprobs"]
    ids = TOKENIZER.encode(WRITTEN)
    assert len(found) == len(ids)
    assert found[0] is None
    decoded = TOKENIZER.decode(ids[1:2], skip_special_tokens=False)
    assert found[1] == {str(ids[1]): {"logprob": -0.5, "rank": 1, "decoded_token": decoded}}


async def test_origins_come_where_asked_for(http: Http) -> None:
    chunks = [chunk["choices"][0] for chunk in await stream(http, return_token_ids=True)]
    pieces = [choice for choice in chunks if "slipstream" in choice]
    assert [token_id for choice in pieces for token_id in choice["token_ids"]] == TOKENIZER.encode(TEXT)
    for choice in pieces:
        assert "".join(text for text, _ in choice["slipstream"]["segments"]) == choice["delta"]["content"]
    assert (pieces[0]["slipstream"]["num_drafted"], pieces[0]["slipstream"]["num_accepted"]) == (4, 3)
    whole = (await post(http, return_token_ids=True))["choices"][0]
    assert list(whole["token_ids"]) == TOKENIZER.encode(TEXT)
    assert whole["slipstream"]["stats"] == pieces[-1]["slipstream"]["stats"]
    assert whole["slipstream"]["stats"]["num_draft_tokens"] == whole["slipstream"]["num_drafted"]


async def test_fields_reach_the_engine(http: Http, fake: FakeClient) -> None:
    await post(
        http, temperature=0.7, top_k=5, min_p=0.1, stop=["zzz"], stop_token_ids=[7], min_tokens=3, seed=11,
        user="someone", metadata={"a": "b"}, store=False, service_tier="auto", parallel_tool_calls=True,
        tools=[], logit_bias={"5": 1.0},
    )  # fmt: skip
    params = fake.requests[0].params
    assert (params.temperature, params.top_k, params.min_p, params.seed) == (0.7, 5, 0.1, 11)
    assert (params.stop_strings, params.eos_token_id, params.min_new_tokens) == (("zzz",), (0, 7), 3)
    assert params.logit_bias == {5: 1.0}
    await post(http, stop_token_ids=[7], ignore_eos=True)
    assert (fake.requests[1].params.eos_token_id, fake.requests[1].params.ignore_eos) == ((7,), False)


async def test_formats_become_grammars(http: Http, fake: FakeClient) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    for body in (
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": named},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"structured_outputs": {"json": json.dumps(schema)}},
    ):
        await post(http, **body)
    assert [request.params.grammar for request in fake.requests] == [
        None,
        JsonObjectGrammar(),
        JsonSchemaGrammar(schema=schema),
        ChoiceGrammar(choices=("yes", "no")),
        JsonSchemaGrammar(schema=schema),
    ]


async def test_messages_in_their_spellings(http: Http, fake: FakeClient) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}], "name": "Ann"},
        {"role": "assistant", "content": "Three", "refusal": None, "tool_calls": [], "annotations": []},
        {"role": "assistant", "content": None},
    ]
    await post(http, messages=messages)
    assert prompt_of(fake) == "[system]Be brief.[user]One\ntwo[assistant]Three[assistant][assistant]"
    await post(http, messages=messages[:3], continue_final_message=True)
    assert prompt_of(fake) == "[system]Be brief.[user]One\ntwo[assistant]Three"
    await post(http, add_generation_prompt=False, chat_template_kwargs={"mood": "glad"})
    assert prompt_of(fake) == "[user]Hello(glad)"
    await post(http, truncate_prompt_tokens=2)
    assert fake.requests[-1].prompt_token_ids == tuple(TOKENIZER.encode(WRITTEN)[-2:])


async def test_what_ends_the_text_can_be_kept(http: Http, fake: FakeClient) -> None:
    last = TOKENIZER.encode(TEXT)[-1]
    fake.text = TEXT
    cut = await post(http, stop_token_ids=[last])
    kept = await post(http, stop_token_ids=[last], include_stop_str_in_output=True)
    texts = [answer["choices"][0]["message"]["content"] for answer in (cut, kept)]
    assert texts == [TEXT.removesuffix(TOKENIZER.decode([last], skip_special_tokens=False)), TEXT]
    assert cut["usage"] == kept["usage"]


async def test_failure_in_the_stream_is_an_event(http: Http, fake: FakeClient) -> None:
    fake.error = "out of luck"
    *chunks, last = await stream(http)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["error"]["message"] == "generation failed: out of luck"


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        ({"messages": []}, 400, "messages", "length >= 1"),
        ({"messages": [{"role": "king", "content": "a"}]}, 400, "messages[0].role", "king"),
        ({"messages": [{"role": "user"}]}, 400, "messages", "null"),
        ({"messages": [{"role": "tool", "content": "a"}]}, 400, "messages", "tool calls are not served"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, 400, "messages[0].content[0].type", "file"),
        ({"messages": [{"role": "user", "content": "a", "mood": 1}]}, 422, "mood", "unknown"),
        ({"messages": [{"role": "user", "content": "a" * 300}]}, 400, "messages", "255"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "not served"),
        ({"functions": [{"name": "f"}]}, 400, "functions", "not served"),
        ({"modalities": ["text", "audio"]}, 400, "modalities", "text"),
        ({"top_logprobs": 2}, 400, "top_logprobs", "logprobs"),
        ({"logprobs": True, "top_logprobs": 6}, 400, "top_logprobs", "5"),
        ({"logprobs": 2}, 422, "logprobs", "bool"),
        ({"max_tokens": 0}, 400, "max_tokens", ">= 1"),
        ({"add_generation_prompt": True, "continue_final_message": True}, 400, "continue_final_message", "excludes"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, 422, "name", "required"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            400, "response_format", "one of",
        ),
        ({"prompt": "a"}, 422, "prompt", "unknown"),
        ({"model": "gpt-9"}, 404, "model", "toy"),
    ],
)  # fmt: skip
async def test_bad_requests(
    http: Http, fake: FakeClient, body: dict[str, Any], status: int, param: str, words: str
) -> None:
    response = await http.post(URL, json={"messages": HELLO} | body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert not fake.requests


async def test_tools_that_must_not_be_called_are_let_pass(http: Http) -> None:
    await post(http, tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="none")


async def test_a_model_without_a_template(fake: FakeClient) -> None:
    async def connect() -> Gateway:
        return Gateway(fake, TOKENIZER, name=MODEL, limits=LIMITS, defaults={})

    async with AsyncTestClient(build_web_app(connect, LIMITS)) as http:
        response = await http.post(URL, json={"messages": HELLO})
    assert response.status_code == 400
    assert "no chat template" in response.json()["error"]["message"]
