"""Sequences of one request: merged as they come, ended together, and called outside of the request's context."""

import asyncio
import contextvars
import itertools
from collections.abc import AsyncGenerator

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from actors.engine.errors import GenerationError
from actors.engine.params import GenerationParams
from actors.engine.request import FinishReason, Request
from serve_app.choices import Choice, ChoiceDelta, combine, merge, run_choice
from serve_app.detached import spawn
from serve_app.errors import ApiError
from serve_app.text import TextStream
from tests.serve_app.fakes import MODEL, TEXT, TOKENIZER, FakeClient

pytestmark = pytest.mark.anyio
MARK: contextvars.ContextVar[str] = contextvars.ContextVar("MARK", default="none")


async def count(index: int, num: int, pause: float, closed: list[int]) -> AsyncGenerator[ChoiceDelta, None]:
    """A stream of numbers that says when it was closed."""
    try:
        for number in range(num):
            await asyncio.sleep(pause)
            yield ChoiceDelta(index=index, token_ids=(number,))
    finally:
        closed.append(index)


async def fail(after: float) -> AsyncGenerator[ChoiceDelta, None]:
    """A stream that breaks."""
    await asyncio.sleep(after)
    raise GenerationError("broken")
    yield ChoiceDelta(index=9)


def choice(num_tokens: int = 200) -> Choice:
    """One sequence to run."""
    params = GenerationParams(max_new_tokens=num_tokens)
    return Choice(index=0, request=Request(request_id="r", prompt_token_ids=(1,), params=params))


async def test_streams_are_interleaved_and_each_stays_in_order() -> None:
    closed: list[int] = []
    streams = [count(0, 3, 0.03, closed), count(1, 5, 0.001, closed)]
    items = [(item.index, item.token_ids[0]) async for item in merge(streams, 5.0)]
    assert [number for index, number in items if index == 0] == [0, 1, 2]
    assert [number for index, number in items if index == 1] == [0, 1, 2, 3, 4]
    assert items[0][0] == 1
    assert sorted(closed) == [0, 1]


async def test_the_first_failure_ends_them_all() -> None:
    closed: list[int] = []
    with pytest.raises(GenerationError, match="broken"):
        async for _ in merge([count(0, 100, 0.001, closed), fail(0.02)], 5.0):
            pass
    assert closed == [0]


async def test_closing_closes_the_streams() -> None:
    closed: list[int] = []
    merged = merge([count(0, 9, 0.001, closed), count(1, 9, 60.0, closed)], 5.0)
    await anext(merged)
    await merged.aclose()
    assert sorted(closed) == [0, 1]


async def test_a_stream_that_takes_too_long() -> None:
    closed: list[int] = []
    with pytest.raises(ApiError) as caught:
        async for _ in merge([count(0, 1, 60.0, closed)], 0.05):
            pass
    assert caught.value.status == 504
    assert closed == [0]


async def test_nothing_of_the_requests_context_reaches_the_cluster() -> None:
    """Ray would recall the messages of a request that Serve cancels, and leave a hole in an actor's queue."""

    async def look() -> AsyncGenerator[ChoiceDelta, None]:
        seen.append(MARK.get())
        yield ChoiceDelta(index=0)

    async def read() -> str:
        return MARK.get()

    seen: list[str] = []
    MARK.set("of the request")
    async for _ in merge([look()], 5.0):
        pass
    assert seen == ["none"]
    assert await spawn(read()) == "none"


async def test_a_choice_runs_to_its_end() -> None:
    client = FakeClient()
    deltas = [delta async for delta in run_choice(client, MODEL, choice(), TextStream(TOKENIZER))]
    whole = combine(deltas)
    assert whole.text == TEXT
    assert whole.token_ids == tuple(TOKENIZER.encode(TEXT))
    assert whole.finish_reason is FinishReason.STOP
    assert (whole.num_drafted, whole.num_accepted) == (68, 51)


async def test_a_failed_sequence_raises() -> None:
    client = FakeClient(error="out of luck")
    with pytest.raises(GenerationError, match="out of luck"):
        async for _ in run_choice(client, MODEL, choice(), TextStream(TOKENIZER)):
            pass
    assert not client.running


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions"])
async def test_each_token_says_where_its_text_begins(http: AsyncTestClient[Litestar], route: str) -> None:
    """Both routes in the same words, so that a page can show any answer token by token."""
    chat: dict[str, object] = {"messages": [{"role": "user", "content": "Once"}]}
    question: dict[str, object] = chat if "chat" in route else {"prompt": "Once", "echo": True}
    answer = await http.post(route, json=question | {"max_tokens": 200, "return_token_ids": True})
    choice = answer.json()["choices"][0]
    ids, offsets = choice["token_ids"], choice["slipstream"]["text_offset"]
    assert len(ids) == len(offsets)
    pieces = [TEXT[begin:end] for begin, end in itertools.pairwise([*offsets, len(TEXT)])]
    assert "".join(pieces) == TEXT
    assert pieces[:9] == [TOKENIZER.decode((token_id,), skip_special_tokens=False) for token_id in ids[:9]]
