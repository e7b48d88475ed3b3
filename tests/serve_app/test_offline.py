"""A batch's requests get what the same bodies would get over HTTP."""

import json
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from cluster.config import LimitsConfig
from serve_app.offline import OfflineAnswerer
from tests.serve_app.fakes import FakeClient, make_gateway

pytestmark = pytest.mark.anyio

LIMITS = LimitsConfig(max_n=4)
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Well?"}]

BODIES: list[tuple[str, dict[str, Any]]] = [
    (COMPLETIONS, {"prompt": "It was", "max_tokens": 20}),
    (COMPLETIONS, {"prompt": ["a", "b"], "n": 2, "logprobs": 2, "echo": True, "return_token_ids": True}),
    (COMPLETIONS, {"prompt": [5, 6, 7], "stop": "river", "max_tokens": 64}),
    (CHAT, {"messages": MESSAGES, "max_tokens": 20, "logprobs": True, "top_logprobs": 2}),
    (COMPLETIONS, {}),
    (COMPLETIONS, {"prompt": "x", "max_tokens": 0.5}),
    (COMPLETIONS, {"prompt": "x", "nonsense": 1}),
    (COMPLETIONS, {"prompt": "x", "n": 1000}),
    (COMPLETIONS, {"prompt": "x", "model": "other"}),
    (CHAT, {"messages": []}),
]


def without_ids(body: Any) -> Any:
    return {name: value for name, value in body.items() if name not in ("id", "created")}


@pytest.mark.parametrize(("url", "body"), BODIES, ids=lambda value: json.dumps(value)[:40])
async def test_answers_are_those_of_the_routes(
    http: AsyncTestClient[Litestar], fake: FakeClient, url: str, body: dict[str, Any]
) -> None:
    offline = OfflineAnswerer(make_gateway(fake, LIMITS))
    answer = await offline.answer(url, json.dumps(body).encode(), seed=7)
    posted = await http.post(url, json=body)
    assert answer.status_code == posted.status_code
    assert without_ids(json.loads(answer.body)) == without_ids(posted.json())
    if answer.status_code == 200:
        usage = posted.json()["usage"]
        counts = (answer.num_prompt_tokens, answer.num_completion_tokens)
        assert counts == (usage["prompt_tokens"], usage["completion_tokens"])


async def test_a_seed_is_given_where_the_body_has_none(fake: FakeClient) -> None:
    offline = OfflineAnswerer(make_gateway(fake, LIMITS))
    for body in ({"prompt": "x"}, {"prompt": "x", "seed": None}, {"prompt": "x", "seed": 0}):
        await offline.answer(COMPLETIONS, json.dumps(body).encode(), seed=7)
    assert [request.params.seed for request in fake.requests] == [7, 7, 0]


async def test_a_batch_has_no_streams_and_no_other_routes(fake: FakeClient) -> None:
    offline = OfflineAnswerer(make_gateway(fake, LIMITS))
    streamed = await offline.answer(COMPLETIONS, b'{"prompt": "x", "stream": true}', seed=7)
    assert (streamed.status_code, json.loads(streamed.body)["error"]["param"]) == (400, "stream")
    other = await offline.answer("/v1/embeddings", b"{}", seed=7)
    assert (other.status_code, json.loads(other.body)["error"]["param"]) == (400, "url")
    assert not fake.requests


async def test_it_says_whether_the_cluster_serves(fake: FakeClient) -> None:
    offline = OfflineAnswerer(make_gateway(fake, LIMITS))
    assert await offline.is_serving()
    fake.is_ready = False
    assert not await offline.is_serving()
    fake.is_router_gone = True
    assert not await offline.is_serving()
    assert (await offline.answer(COMPLETIONS, b'{"prompt": "x"}', seed=7)).status_code == 503
