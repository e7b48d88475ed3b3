"""The drafts over HTTP: chosen to run ahead, asked themselves, or left out."""

from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from tests.serve_app.fakes import FakeClient

pytestmark = pytest.mark.anyio

Http = AsyncTestClient[Litestar]
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x"},
    "/v1/chat/completions": CHAT,
    "/generate": {"prompt": "x"},
}


@pytest.mark.parametrize("path", ROUTES)
async def test_how_to_draft_travels_with_the_request(http: Http, fake: FakeClient, path: str) -> None:
    wishes = {"assistant_model": "tiny", "prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 4}
    answer = await http.post(path, json=ROUTES[path] | wishes)
    assert answer.status_code == 200, answer.text
    params = fake.requests[0].params
    assert {name: getattr(params, name) for name in wishes} == wishes
    assert fake.models == ["toy"]


@pytest.mark.parametrize("path", ["/v1/completions", "/generate"])
async def test_a_draft_is_asked_by_its_name(http: Http, fake: FakeClient, path: str) -> None:
    answer = await http.post(path, json=ROUTES[path] | {"model": "tiny"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "tiny"
    assert fake.models == ["tiny"]
    assert (await http.post("/tokenize", json={"prompt": "x", "model": "tiny"})).status_code == 200
    counted = 'slipstream:e2e_request_latency_seconds_count{model_name="tiny"} 1.0'
    assert counted in (await http.get("/metrics")).text


async def test_each_model_has_a_chat_template_of_its_own(http: Http) -> None:
    answer = await http.post("/v1/chat/completions", json=CHAT | {"model": "tiny"})
    assert answer.status_code == 400
    assert "'tiny' has no chat template" in answer.json()["error"]["message"]


async def test_other_names_are_refused_with_those_that_there_are(http: Http) -> None:
    answer = await http.post("/v1/completions", json={"prompt": "x", "model": "huge"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (404, "model")
    assert "'toy', 'tiny'" in error["message"]


@pytest.mark.parametrize(
    "wish",
    [
        {"assistant_model": ""},
        {"prompt_lookup_num_tokens": 0},
        {"prompt_lookup_num_tokens": 65},
        {"max_matching_ngram_size": 0},
    ],
)
async def test_wishes_out_of_bounds_are_named(http: Http, wish: dict[str, Any]) -> None:
    for path, body in ROUTES.items():
        answer = await http.post(path, json=body | wish)
        assert answer.status_code in (400, 422), path
        assert answer.json()["error"]["param"] == next(iter(wish)), path
