"""What goes wrong, as the official client sees it: an exception of its own for each kind."""

from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.serve_app.conftest import Server
from tests.serve_app.fakes import MODEL, FakeClient
from tests.served import until

TALK: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(server: Server) -> OpenAI:
    """A client that tries once."""
    return OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0, timeout=30)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        ({"is_overloaded": True}, openai.RateLimitError),
        ({"is_ready": False}, openai.InternalServerError),
        ({"is_router_gone": True}, openai.InternalServerError),
    ],
)
def test_what_fails_before_the_first_token(
    client: OpenAI, fake: FakeClient, trouble: dict[str, bool], error: type[openai.APIStatusError], stream: bool
) -> None:
    for name, value in trouble.items():
        setattr(fake, name, value)
    arguments: dict[str, Any] = {"model": MODEL, "messages": TALK, "stream": stream}
    with pytest.raises(error) as caught:
        client.chat.completions.create(**arguments)
    assert caught.value.response.headers["retry-after"]


def test_what_fails_in_the_stream(client: OpenAI, fake: FakeClient) -> None:
    fake.error = "out of luck"
    seen = ""
    with pytest.raises(openai.APIError, match="out of luck") as caught:
        for chunk in client.chat.completions.create(model=MODEL, messages=TALK, stream=True):
            seen += chunk.choices[0].delta.content or ""
    assert seen
    assert caught.value.code == "generation_failed"
    with pytest.raises(openai.APIError, match="out of luck"):
        list(client.completions.create(model=MODEL, prompt="Once", max_tokens=99, stream=True))
    with pytest.raises(openai.InternalServerError, match="out of luck"):
        client.chat.completions.create(model=MODEL, messages=TALK)


def test_a_stream_that_is_left_is_taken_back(client: OpenAI, fake: FakeClient) -> None:
    fake.pause = 0.05
    with client.chat.completions.create(model=MODEL, messages=TALK, stream=True) as stream:
        next(iter(stream))
        [request_id] = fake.running
    until(lambda: fake.taken_back == [request_id])
    assert not fake.running
