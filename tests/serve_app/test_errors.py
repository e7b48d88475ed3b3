"""Bad input: the right status, OpenAI's shape, the field and the limit by name; never a 500."""

import json
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from cluster.config import LimitsConfig
from tests.serve_app.fakes import FakeClient, make_app

pytestmark = pytest.mark.anyio
Http = AsyncTestClient[Litestar]
JSON = {"content-type": "application/json"}

BAD_COMPLETIONS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"prompt": "a", "max_tokns": 3}, 422, "max_tokns", "unknown"),
    ({"max_tokens": 3}, 422, "prompt", "required"),
    ({"prompt": "a", "max_tokens": "3"}, 422, "max_tokens", "`int"),
    ({"prompt": "a", "max_tokens": 1.5}, 422, "max_tokens", "`int"),
    ({"prompt": "a", "max_tokens": -1}, 400, "max_tokens", ">= 0"),
    ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens", "at least 1"),
    ({"prompt": "a", "max_tokens": 10**30}, 400, "max_tokens", "2147483647"),
    ({"prompt": "a", "temperature": -0.1}, 400, "temperature", ">= 0.0"),
    ({"prompt": "a", "temperature": "hot"}, 422, "temperature", "float"),
    ({"prompt": "a", "top_p": 0}, 400, "top_p", "> 0.0"),
    ({"prompt": "a", "top_p": 1.5}, 400, "top_p", "<= 1.0"),
    ({"prompt": "a", "min_p": 2}, 400, "min_p", "<= 1.0"),
    ({"prompt": "a", "top_k": -2}, 400, "top_k", ">= -1"),
    ({"prompt": "a", "seed": -(2**63) - 1}, 400, "seed", "-9223372036854775808"),
    ({"prompt": "a", "seed": 2**63}, 400, "seed", "9223372036854775807"),
    ({"prompt": "a", "n": 5}, 400, "n", "4"),
    ({"prompt": "a", "n": 0}, 400, "n", ">= 1"),
    ({"prompt": ["a"] * 4}, 400, "prompt", "3"),
    ({"prompt": ""}, 400, "prompt", "empty"),
    ({"prompt": []}, 400, "prompt", "empty"),
    ({"prompt": ["a", ""]}, 400, "prompt", "empty"),
    ({"prompt": [[]]}, 400, "prompt", "empty"),
    ({"prompt": None}, 422, "prompt", "null"),
    ({"prompt": [1, "a"]}, 422, "prompt", "mix"),
    ({"prompt": [[1], "a"]}, 422, "prompt", "mix"),
    ({"prompt": [True]}, 422, "prompt[0]", "bool"),
    ({"prompt": [1, 290]}, 400, "prompt", "289"),
    ({"prompt": [-1]}, 400, "prompt", "vocabulary"),
    ({"prompt": [10**30]}, 400, "prompt", "vocabulary"),
    ({"prompt": [1] * 256}, 400, "prompt", "255"),
    ({"prompt": "a b c d " * 200}, 400, "prompt", "255"),
    ({"prompt": "a", "logprobs": 6}, 400, "logprobs", "5"),
    ({"prompt": "a", "prompt_logprobs": 6}, 400, "prompt_logprobs", "5"),
    ({"prompt": "a", "prompt_logprobs": 1, "stream": True}, 400, "prompt_logprobs", "stream"),
    ({"prompt": "a", "suffix": "b"}, 400, "suffix", "not served"),
    ({"prompt": "a", "best_of": 1, "n": 2}, 400, "best_of", "at least n"),
    ({"prompt": "a", "best_of": 2, "stream": True}, 400, "best_of", "stream"),
    ({"prompt": "a", "best_of": 5}, 400, "best_of", "4"),
    ({"prompt": "a", "min_tokens": 9, "max_tokens": 8}, 400, "min_tokens", "8"),
    ({"prompt": "a", "stream_options": {"include_usage": True}}, 400, "stream_options", "stream"),
    ({"prompt": "a", "truncate_prompt_tokens": 0}, 400, "truncate_prompt_tokens", "at least 1"),
    ({"prompt": "a", "stop_token_ids": [290]}, 400, "stop_token_ids", "289"),
    ({"prompt": "a", "response_format": {"type": "xml"}}, 400, "response_format.type", "xml"),
    ({"prompt": "a", "structured_outputs": {}}, 400, "structured_outputs", "none"),
    ({"prompt": "a", "structured_outputs": {"regex": "a", "choice": ["a"]}}, 400, "structured_outputs", "regex"),
    ({"prompt": "a", "structured_outputs": {"json": "[1]"}}, 400, "structured_outputs", "JSON object"),
    ({"prompt": "a", "stop": ""}, 400, "stop", "length >= 1"),
    ({"prompt": "a", "stop": ["b"] * 65}, 400, "stop", "64"),
    ({"prompt": "a", "logit_bias": {"x": 1}}, 422, "logit_bias", "int"),
    ({"prompt": "a", "logit_bias": {"400": 1}}, 400, "logit_bias", "289"),
    ({"prompt": "a", "logit_bias": {"1": 101}}, 400, "logit_bias[...]", "100"),
    ({"prompt": "a", "num_assistant_tokens": 65}, 400, "num_assistant_tokens", "64"),
    ({"prompt": "a", "presence_penalty": 3}, 400, "presence_penalty", "2.0"),
    ({"prompt": "a", "repetition_penalty": 0}, 400, "repetition_penalty", "> 0"),
    ({"prompt": "a", "model": "gpt-9"}, 404, "model", "toy"),
    ({"prompt": "a", "stream_options": {"x": 1}}, 422, "x", "unknown"),
]

BAD_GENERATIONS: list[tuple[dict[str, Any], int, str, str]] = [
    ({}, 400, "prompt", "input_ids"),
    ({"prompt": "a", "input_ids": [1]}, 400, "prompt", "input_ids"),
    ({"input_ids": [999]}, 400, "input_ids", "289"),
    ({"prompt": "a", "max_new_tokens": 0}, 400, "max_new_tokens", ">= 1"),
    ({"prompt": "a", "temperature": 0.0, "do_sample": True}, 400, "temperature", "> 0"),
    ({"prompt": "a", "compile_config": {}}, 422, "compile_config", "not served"),
    ({"prompt": "a", "num_bems": 4}, 422, "num_bems", "unknown"),
    ({"prompt": "a", "num_return_sequences": 9}, 400, "num_return_sequences", "4"),
    ({"prompt": "abc", "max_length": 1}, 400, "max_length", "1"),
    ({"prompt": "a", "suppress_tokens": [400]}, 400, "suppress_tokens", "289"),
    ({"prompt": "a", "bad_words_ids": [[400]]}, 400, "bad_words_ids", "289"),
    ({"prompt": "a", "eos_token_id": 400}, 400, "eos_token_id", "289"),
    ({"prompt": "a", "top_k": 10**30, "do_sample": True}, 400, "top_k", "2147483647"),
]


async def check(http: Http, url: str, body: dict[str, Any], status: int, param: str, words: str) -> None:
    """Post, and expect this error."""
    response = await http.post(url, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert words in error["message"]
    assert param.split("[")[0] in error["message"]


@pytest.mark.parametrize(("body", "status", "param", "words"), BAD_COMPLETIONS)
async def test_bad_completion(
    http: Http, fake: FakeClient, body: dict[str, Any], status: int, param: str, words: str
) -> None:
    await check(http, "/v1/completions", body, status, param, words)
    assert not fake.requests


@pytest.mark.parametrize(("body", "status", "param", "words"), BAD_GENERATIONS)
async def test_bad_generation(
    http: Http, fake: FakeClient, body: dict[str, Any], status: int, param: str, words: str
) -> None:
    await check(http, "/generate", body, status, param, words)
    assert not fake.requests


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"nope", b'{"prompt": "a", "temperature": NaN}', b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b'{"prompt": "a"} x', b'{"stop": ' + b"[" * 2000,
        b'{"prompt": "a", "temperature": 1e999}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("url", ["/v1/completions", "/generate"])
async def test_what_is_no_json(http: Http, url: str, body: bytes) -> None:
    response = await http.post(url, content=body, headers=JSON)
    assert response.status_code in (400, 422)
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"[]", b"null", b"3", b'"a"', b"[" * 3000])
async def test_json_that_is_no_object(http: Http, body: bytes) -> None:
    response = await http.post("/v1/completions", content=body, headers=JSON)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "body"


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_other_media_types(http: Http, media_type: str) -> None:
    response = await http.post("/v1/completions", content=b'{"prompt": "a"}', headers={"content-type": media_type})
    assert response.status_code == 415
    assert response.json()["error"]["param"] == "content-type"


async def test_body_over_the_limit(http: Http) -> None:
    response = await http.post("/v1/completions", json={"prompt": "a" * 5000})
    assert response.status_code == 413
    error = response.json()["error"]
    assert error["param"] == "body"
    assert "4096" in error["message"]


async def test_unknown_routes_and_methods(http: Http) -> None:
    response = await http.get("/v1/nothing")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    response = await http.get("/v1/completions")
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")
    response = await http.get("/static/..%2fapp.py")
    assert response.status_code == 404


async def test_overload(http: Http, fake: FakeClient) -> None:
    fake.is_overloaded = True
    for is_stream in (False, True):
        response = await http.post("/v1/completions", json={"prompt": "a", "stream": is_stream})
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        assert "limit is 2" in response.json()["error"]["message"]


async def test_no_target(http: Http, fake: FakeClient) -> None:
    fake.is_ready = False
    response = await http.post("/v1/completions", json={"prompt": "a"})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["code"] == "not_ready"


async def test_a_request_that_takes_too_long(fake: FakeClient) -> None:
    fake.pause = 60.0
    async with AsyncTestClient(make_app(fake, LimitsConfig(request_timeout=0.1))) as http:
        response = await http.post("/v1/completions", json={"prompt": "a"})
    assert response.status_code == 504
    assert "0.1 seconds" in response.json()["error"]["message"]
    assert not fake.running


async def test_a_bad_request_leaves_its_neighbours_alone(http: Http) -> None:
    good = await http.post("/v1/completions", json={"prompt": ["a", "b"]})
    bad = await http.post("/v1/completions", content=json.dumps({"prompt": ["a", [1]]}), headers=JSON)
    assert (good.status_code, bad.status_code) == (200, 422)
