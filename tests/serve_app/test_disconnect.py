"""Over a real socket: tokens leave as they come, and a client that hangs up takes its sequences back."""

import http.client
import json
import socket
import time

import pytest

from tests.serve_app.conftest import Server
from tests.serve_app.fakes import FakeClient


def call(server: Server, **body: object) -> http.client.HTTPConnection:
    """Send a completion request; the answer is not waited for."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    data = json.dumps({"prompt": "Once", "max_tokens": 100} | body)
    connection.request("POST", "/v1/completions", data, {"content-type": "application/json"})
    return connection


def wait_for(seconds: float, is_true: object) -> None:
    """Poll until a callable says yes."""
    assert callable(is_true)
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_that_nobody_reads_is_taken_back(server: Server, fake: FakeClient, n: int) -> None:
    fake.pause = 0.05
    connection = call(server, stream=True, n=n)
    response = connection.getresponse()
    assert response.readline().startswith(b"data: ")
    assert len(fake.running) == n
    connection.sock and connection.sock.shutdown(socket.SHUT_RDWR)
    response.close()
    connection.close()
    wait_for(2, lambda: not fake.running)
    assert len(fake.taken_back) == n


def test_a_plain_answer_that_nobody_waits_for_is_taken_back(server: Server, fake: FakeClient) -> None:
    fake.pause = 0.2
    connection = call(server)
    wait_for(2, lambda: fake.running)
    connection.close()
    wait_for(2, lambda: not fake.running)
    assert len(fake.taken_back) == 1


def test_the_first_token_does_not_wait_for_the_second(server: Server, fake: FakeClient) -> None:
    fake.pause = 0.3
    begin = time.monotonic()
    connection = call(server, stream=True, max_tokens=8)
    response = connection.getresponse()
    assert response.readline().startswith(b"data: ")
    assert time.monotonic() - begin < 0.55
    assert response.read().endswith(b"data: [DONE]\n\n")
    assert not fake.taken_back
    connection.close()


def test_a_chunked_body_over_the_limit(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    chunks = (b'{"prompt": "' + b"a" * 1000 for _ in range(8))
    connection.request(
        "POST", "/v1/completions", chunks, {"content-type": "application/json"}, encode_chunked=True
    )  # no content-length
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "body_too_large"
    connection.close()
