"""What is refused before it is read, and what is ended before it is done."""

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient
from litestar.types import HTTPDisconnectEvent, HTTPReceiveMessage, HTTPRequestEvent, Message

from cluster.config import LimitsConfig
from serve_app.admission import Admission
from serve_app.cluster_view import Capacity
from serve_app.tokenizer import FastTokenizer
from tests.serve_app.conftest import Server
from tests.serve_app.fakes import TOKENIZER, FakeClient, make_app
from tests.serve_app.test_disconnect import wait_for

pytestmark = pytest.mark.anyio


async def post(app: Litestar, body: AsyncIterator[HTTPReceiveMessage], path: str = "/v1/completions") -> list[Message]:
    """Call the application as a server does, with the messages of a body; what it sent."""
    sent: list[Message] = []

    async def receive() -> HTTPReceiveMessage:
        return await anext(body)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
        "raw_path": path.encode(), "root_path": "", "query_string": b"", "scheme": "http", "client": ("x", 1),
        "server": ("y", 2), "headers": [(b"content-type", b"application/json")], "state": {}, "extensions": {},
    }  # fmt: skip
    await app(scope, receive, send)  # type: ignore[arg-type]
    return sent


@asynccontextmanager
async def serving(app: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose requests run side by side, on the loop of the test."""
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        yield http


async def until_running(fake: FakeClient, count: int) -> None:
    """Wait for sequences to be on their way."""
    async with asyncio.timeout(10):
        while len(fake.running) < count:
            await asyncio.sleep(0.01)


async def stalled(first: bytes) -> AsyncIterator[HTTPReceiveMessage]:
    """A body that begins and never ends."""
    yield HTTPRequestEvent(type="http.request", body=first, more_body=True)
    await asyncio.sleep(3600)


async def hung_up(first: bytes) -> AsyncIterator[HTTPReceiveMessage]:
    """A body whose sender goes away in the middle of it."""
    yield HTTPRequestEvent(type="http.request", body=first, more_body=True)
    yield HTTPDisconnectEvent(type="http.disconnect")


def error_of(sent: list[Message]) -> tuple[int, dict[str, str]]:
    content = b"".join(message.get("body", b"") for message in sent)  # type: ignore[misc]
    return sent[0]["status"], json.loads(content)["error"]  # type: ignore[typeddict-item]


async def test_past_the_bound_nothing_is_read(fake: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.pause = 0.05
    encoded: list[str] = []
    real = FastTokenizer.encode

    def encode(self: FastTokenizer, text: str, **options: bool) -> list[int]:
        encoded.append(text)
        return real(self, text, **options)

    monkeypatch.setattr(FastTokenizer, "encode", encode)
    async with serving(make_app(fake, LimitsConfig(max_num_requests=2))) as http:
        running = [asyncio.create_task(http.post("/v1/completions", json={"prompt": f"p{n}"})) for n in range(2)]
        await until_running(fake, 2)
        response = await http.post("/v1/completions", content=b"x" * 100_000)
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "overloaded")
        assert "max_num_requests=2" in error["message"]
        assert [text for text in encoded if text != fake.text] == ["p0", "p1"]
        assert (await http.get("/v1/models")).status_code == 200  # questions are not work
        assert [answer.status_code for answer in await asyncio.gather(*running)] == [200, 200]
        assert (await http.post("/v1/completions", json={"prompt": "again"})).status_code == 200


@pytest.mark.parametrize("capacity", [Capacity(total=3), Capacity(total=99, per_target=3)])
async def test_the_clusters_bound_counts_sequences(fake: FakeClient, capacity: Capacity) -> None:
    async with serving(make_app(fake, capacity=capacity)) as http:
        await http.get("/status")  # the bound per target is known once the targets are
        response = await http.post("/v1/completions", json={"prompt": "a", "n": 4})
        assert response.status_code == 429
        assert not fake.requests  # all of them or none
        fake.pause = 0.05
        first = asyncio.create_task(http.post("/v1/completions", json={"prompt": "a", "n": 2}))
        await until_running(fake, 2)
        assert (await http.post("/v1/completions", json={"prompt": "a", "n": 2, "stream": True})).status_code == 429
        assert (await http.post("/v1/completions", json={"prompt": "a"})).status_code == 200
        assert (await first).status_code == 200


async def test_what_others_have_in_flight_counts_too(fake: FakeClient) -> None:
    fake.num_others = 5
    async with AsyncTestClient(make_app(fake, capacity=Capacity(total=5))) as http:
        await http.get("/status")
        assert (await http.post("/v1/completions", json={"prompt": "a"})).status_code == 429
        fake.num_others = 0
        await http.get("/status")
        assert (await http.post("/v1/completions", json={"prompt": "a"})).status_code == 200


def test_admission_counts_down_however_a_request_ends() -> None:
    admission = Admission(10, 2, room=lambda: 10)
    with pytest.raises(ValueError), admission.request(), admission.sequences(7):
        assert (admission.num_requests, admission.num_open) == (1, 7)
        with admission.request():
            assert admission.num_open == 8
        raise ValueError
    assert (admission.num_requests, admission.num_sequences, admission.num_open) == (0, 0, 0)


async def test_a_body_that_never_ends(fake: FakeClient) -> None:
    app = make_app(fake, LimitsConfig(body_timeout=0.05))
    async with AsyncTestClient(app):
        status, error = error_of(await post(app, stalled(b'{"prompt"')))
        assert (status, error["param"], error["code"]) == (408, "body", "timeout")
        assert app.state.gateway.admission.num_requests == 0


async def test_a_sender_who_goes_away_is_nobodys_error(fake: FakeClient, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(fake)
    async with AsyncTestClient(app) as http:
        status, _ = error_of(await post(app, hung_up(b'{"prompt"')))
        assert status == 499
        assert not caplog.records
        metrics = (await http.get("/metrics")).text
    assert 'status="499"} 1' in metrics and 'status="500"' not in metrics


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_client_may_give_less_time(fake: FakeClient, is_stream: bool) -> None:
    fake.pause = 0.02 if is_stream else 60.0
    async with AsyncTestClient(make_app(fake)) as http:
        body = {"prompt": "a", "max_tokens": 100, "stream": is_stream}
        response = await http.post("/v1/completions", json=body, headers={"X-Request-Timeout": "0.1"})
        assert "0.1 seconds" in response.text and "timeout" in response.text
        assert response.status_code == (200 if is_stream else 504)
        assert response.text.endswith("data: [DONE]\n\n") or not is_stream
        assert not fake.running
        assert all(request.params.max_time == pytest.approx(5.1) for request in fake.requests)


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", ""])
async def test_a_timeout_that_is_none(fake: FakeClient, value: str) -> None:
    async with AsyncTestClient(make_app(fake)) as http:
        response = await http.post("/v1/completions", json={"prompt": "a"}, headers={"X-Request-Timeout": value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-request-timeout")


BAD = [
    ({"stop": ["a", "b", "c"]}, "stop", "2"),
    ({"stop": "abcdefghi"}, "stop", "8"),
    ({"logit_bias": {"1": 1, "2": 1, "3": 1}}, "logit_bias", "2"),
    ({"prompt": ["a", "b", "c"], "n": 2}, "prompt", "5"),
    ({"prompt": TOKENIZER.decode([5] * 30, skip_special_tokens=True)}, "prompt", "20"),
    ({"prompt": [5] * 21}, "prompt", "20"),
]


@pytest.mark.parametrize(("body", "param", "limit"), BAD)
async def test_bounds_of_a_request(fake: FakeClient, body: dict[str, object], param: str, limit: str) -> None:
    limits = LimitsConfig(
        max_num_stop_strings=2, max_stop_string_chars=8, max_num_logit_biases=2, max_num_prompts=4, max_n=4,
        max_num_sequences=5, max_num_prompt_tokens=20,
    )  # fmt: skip
    async with AsyncTestClient(make_app(fake, limits)) as http:
        response = await http.post("/v1/completions", json={"prompt": "a"} | body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert f"limit is {limit}" in error["message"] or f"request is {limit}" in error["message"]
    assert not fake.requests


async def test_lists_of_ids_are_bounded(fake: FakeClient) -> None:
    async with AsyncTestClient(make_app(fake, LimitsConfig(max_num_listed_ids=3))) as http:
        body = {"prompt": "a", "bad_words_ids": [[1, 2], [3, 4]]}
        response = await http.post("/generate", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "bad_words_ids")


def test_a_body_cut_off_by_its_sender_over_a_socket(server: Server, fake: FakeClient) -> None:
    for cut in (1, 40, 130, 150):
        request = (
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 60\r\n\r\n"
            + json.dumps({"prompt": "Once", "max_tokens": 100}).encode().ljust(60)
        )
        with socket.create_connection(("127.0.0.1", server.port)) as sender:
            sender.sendall(request[:cut])
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "a"}), {"content-type": "application/json"})
    assert connection.getresponse().status == 200
    connection.close()
    wait_for(5, lambda: not fake.running)
    assert len(fake.requests) == 1


def test_a_refusal_comes_while_the_body_is_still_on_its_way(fake: FakeClient) -> None:
    fake.pause = 0.5
    with Server(fake, LimitsConfig(max_num_requests=1)).running() as server:
        refuse_early(server, fake)


def refuse_early(server: Server, fake: FakeClient) -> None:
    first = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    first.request("POST", "/v1/completions", json.dumps({"prompt": "a"}), {"content-type": "application/json"})
    wait_for(5, lambda: fake.running)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as slow:
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 4000\r\n\r\n{")
        assert slow.recv(100).startswith(b"HTTP/1.1 429")
    assert first.getresponse().status == 200
    first.close()
