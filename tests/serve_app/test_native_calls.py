"""Calls of transformers' own code at the door: what is asked of a target, what is answered, how many at a time."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import httpx
import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from cluster.config import LimitsConfig
from tests.serve_app.fakes import TEXT, TOKENIZER, FakeClient, make_app

pytestmark = pytest.mark.anyio
Http = AsyncTestClient[Litestar]
CALL = {"prompt": "Once", "guidance_scale": 1.5, "max_new_tokens": 6}


def test_the_door_gets_by_without_torch() -> None:
    """The ingress is small and quick to start; tensors pass through it as numpy's."""
    program = "import sys, serve_app.web, serve_app.connect; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


async def test_a_call_is_plain_data_with_lengths_and_ends_resolved(http: Http, fake: FakeClient) -> None:
    body = {"guidance_scale": 1.5, "max_length": 9, "early_stopping": True, "seed": 5, "num_assistant_tokens": 3}
    response = await http.post("/generate", json={"input_ids": [[5, 6], [7]], **body})
    assert response.status_code == 200, response.text
    [call] = fake.calls
    assert call.prompts == ((5, 6), (7,))
    assert call.seed == 5
    assert call.max_output_bytes == LimitsConfig().max_output_bytes
    max_time = call.fields.pop("max_time")
    assert max_time > LimitsConfig().request_timeout
    assert call.fields == {
        "guidance_scale": 1.5,
        "early_stopping": True,
        "max_new_tokens": 7,
        "max_length": None,
        "return_dict_in_generate": False,
    }
    assert json.loads(json.dumps(call.fields)) == call.fields
    assert fake.requests == []


async def test_the_models_own_defaults_make_a_call_too(fake: FakeClient) -> None:
    async with AsyncTestClient(make_app(fake, defaults={"guidance_scale": 3.0})) as http:
        await http.post("/generate", json={"prompt": "Once"})
        await http.post("/generate", json={"prompt": "Once", "guidance_scale": 1.0})
    assert len(fake.calls) == len(fake.requests) == 1


async def test_scores_come_in_json_and_tensors_do_not(http: Http) -> None:
    beams = {"prompt": "Once", "num_beams": 3, "num_return_sequences": 2, "output_scores": True}
    answer = (await http.post("/generate", json=beams)).json()
    assert [sequence["score"] for sequence in answer["sequences"]] == [0.0, -1.0]
    assert all("seed" not in sequence for sequence in answer["sequences"])
    assert answer["sequences"][0]["text"] == TEXT[: len(answer["sequences"][0]["text"])] != ""
    refused = await http.post("/generate", json=CALL | {"output_logits": True})
    assert refused.status_code == 406


async def test_what_is_accepted_first_is_sent(http: Http) -> None:
    for accept, expected in [
        ("*/*", "application/json"),
        ("application/msgpack, application/json;q=0.5", "application/msgpack"),
        ("text/html, application/x-safetensors", "application/x-safetensors"),
        ("text/html", "application/json"),
        ("garbage;;q=x, /", "application/json"),
    ]:
        response = await http.post("/generate", json=CALL, headers={"accept": accept})
        assert response.headers["content-type"].split(";")[0] == expected


async def test_only_so_many_run_at_a_time() -> None:
    fake = FakeClient(pause=0.05)
    limits = LimitsConfig(max_num_native_requests=2)
    app: Any = make_app(fake, limits)
    transport = httpx.ASGITransport(app=app)
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://door") as http:
        responses = await asyncio.gather(*(http.post("/generate", json=CALL) for _ in range(4)))
        plain = await http.post("/generate", json={"prompt": "Once"})
        again = await http.post("/generate", json=CALL)
    assert sorted(response.status_code for response in responses) == [200, 200, 429, 429]
    refused = next(response for response in responses if response.status_code == 429)
    assert "max_num_native_requests=2" in refused.json()["error"]["message"]
    assert "retry-after" in refused.headers
    assert (plain.status_code, again.status_code) == (200, 200)


async def test_a_call_ends_with_its_time(fake: FakeClient) -> None:
    fake.pause = 10.0
    async with AsyncTestClient(make_app(fake)) as http:
        response = await http.post("/generate", json=CALL, headers={"x-request-timeout": "0.05"})
    assert response.status_code == 504
    assert fake.taken_back == ["call"]


async def test_its_failure_is_its_own(http: Http, fake: FakeClient) -> None:
    fake.error = "RuntimeError: boom"
    response = await http.post("/generate", json=CALL)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "generation_failed")
    fake.error = ""
    assert (await http.post("/generate", json=CALL)).status_code == 200


async def test_metrics_count_its_sequences(http: Http) -> None:
    await http.post("/generate", json=CALL | {"num_return_sequences": 2})
    text = (await http.get("/metrics")).text
    assert 'slipstream:request_success_total{finished_reason="native",model_name="toy"} 2.0' in text


async def test_a_stream_leaves_out_the_prompt(http: Http) -> None:
    body: dict[str, Any] = {"input_ids": [5, 6], "guidance_scale": 1.5, "negative_prompt": "No", "stream": True}
    response = await http.post("/generate", json=body | {"max_new_tokens": 5})
    chunks = [json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n")[:-2]]
    assert [token for chunk in chunks for token in chunk["token_ids"]] == TOKENIZER.encode(TEXT)[:5]
    assert chunks[-1]["finish_reason"] == "length"
