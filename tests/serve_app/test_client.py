"""The client against the real application, in process: arguments, results, streams, errors, retries."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from actors.engine.errors import GenerationError, OverloadedError, RequestError
from actors.engine.params import NamedProcessor
from cluster.client import Client, Generated
from cluster.client.body import request_body
from cluster.config import LimitsConfig
from serve_app.keys import ONE_KEY, Keys
from tests.serve_app.fakes import TEXT, TOKENIZER, VOCAB_SIZE, FakeClient, make_app

pytestmark = pytest.mark.anyio


class InProcess(httpx.AsyncBaseTransport):
    """httpx's own way into an ASGI application, after so many refusals."""

    def __init__(self, app: Any, refusals: list[httpx.Response | Exception] | None = None) -> None:
        self._inner = httpx.ASGITransport(app=app)
        self._refusals = refusals or []
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self._refusals:
            refusal = self._refusals.pop(0)
            if isinstance(refusal, Exception):
                raise refusal
            return refusal
        return await self._inner.handle_async_request(request)


@asynccontextmanager
async def connected(
    fake: FakeClient,
    refusals: list[httpx.Response | Exception] | None = None,
    waits: list[float] | None = None,
    keys: Keys | None = None,
    **arguments: Any,
) -> AsyncIterator[tuple[Client, InProcess]]:
    """A client of an application that has started."""
    app = make_app(fake, LimitsConfig(max_n=4), keys=keys)

    async def sleep(seconds: float) -> None:
        (waits if waits is not None else []).append(seconds)

    transport = InProcess(app, refusals)
    async with app.lifespan(), Client("http://slipstream", transport=transport, sleep=sleep, **arguments) as client:
        yield client, transport


def test_it_needs_no_torch_and_no_ray() -> None:
    program = "import sys, cluster.client; print({'torch', 'ray', 'transformers', 'litestar'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


async def test_text_and_ids(fake: FakeClient) -> None:
    async with connected(fake) as (client, _):
        found = await client.generate("Once", max_new_tokens=200, seed=3)
    assert isinstance(found, Generated)
    assert found.texts == [TEXT]
    assert found.seed == 3
    assert found.answer.sequences[0].finish_reason == "stop"
    prompt = TOKENIZER.encode("Once")
    assert found.sequences.dtype == np.int64
    assert found.sequences.tolist() == [[*prompt, *TOKENIZER.encode(TEXT)]]
    assert found.answer.usage.prompt_tokens == len(prompt)


async def test_tensors_come_as_transformers_nests_them(fake: FakeClient) -> None:
    async with connected(fake) as (client, _):
        found = await client.generate(
            [[5, 6], [7]], num_beams=2, max_new_tokens=4, output_scores=True, output_logits=True
        )
    assert found.sequences.shape == (2, 6)
    assert found.sequences_scores.tolist() == [-0.5, -1.0]
    assert [step.shape for step in found.scores] == [(2, VOCAB_SIZE)] * 4
    assert float(found.logits[3][0, 0]) == 3.0
    assert found.attentions is None
    assert found.answer.sequences[1].score == -1.0


async def test_a_padded_batch_loses_its_padding(fake: FakeClient) -> None:
    ids, mask = np.array([[0, 0, 5], [6, 7, 8]]), np.array([[0, 0, 1], [1, 1, 1]])
    async with connected(fake) as (client, _):
        await client.generate(ids, attention_mask=mask, max_new_tokens=2)
    assert [request.prompt_token_ids for request in fake.requests] == [(5,), (6, 7, 8)]


async def test_arguments_lie_over_a_generation_config(fake: FakeClient) -> None:
    from transformers import GenerationConfig

    config = GenerationConfig(max_new_tokens=9, repetition_penalty=1.5, sequence_bias={(5,): 2.0})
    async with connected(fake, model="toy") as (client, _):
        await client.generate("Once", config, max_new_tokens=3, return_dict_in_generate=True, do_sample=None)
    [request] = fake.requests
    assert request.params.max_new_tokens == 3
    assert request.params.repetition_penalty == 1.5
    assert request.params.sequence_bias == (((5,), 2.0),)


async def test_streams(fake: FakeClient) -> None:
    async with connected(fake) as (client, _):
        pieces = [piece async for piece in client.stream("Once", max_new_tokens=200, seed=4)]
    assert "".join(piece.text for piece in pieces) == TEXT
    assert [token for piece in pieces for token in piece.token_ids] == TOKENIZER.encode(TEXT)
    assert (pieces[-1].finish_reason, pieces[-1].seed) == ("stop", 4)
    assert len(pieces) > 3


async def test_a_stream_that_fails_half_way(fake: FakeClient) -> None:
    fake.error = "a wire came loose"
    async with connected(fake) as (client, _):
        with pytest.raises(GenerationError, match="a wire came loose"):
            async for _piece in client.stream("Once", max_new_tokens=200):
                pass


NAMED: list[Callable[[], Any]] = [
    lambda: "ban_odd",
    lambda: {"name": "ban_odd", "args": {"step": np.int64(2)}},
    lambda: NamedProcessor(name="ban_odd", args={"step": 2}),
]


@pytest.mark.parametrize("make", NAMED)
async def test_processors_are_named(fake: FakeClient, make: Callable[[], Any]) -> None:
    async with connected(fake) as (client, _):
        await client.generate("Once", logits_processor=[make()], stopping_criteria=["end"], max_new_tokens=2)
    params = fake.requests[0].params
    assert [item.name for item in params.logits_processors] == ["ban_odd"]
    assert [item.name for item in params.stopping_criteria] == ["end"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"logits_processor": [lambda ids, scores: scores]}, "logits_processor"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: [5]}, "prefix_allowed_tokens_fn"),
        ({"custom_generate": "some/repo"}, "custom_generate"),
        ({"assistant_model": object()}, "assistant_model"),
        ({"streamer": object()}, "streamer"),
        ({"grammar": print}, "grammar"),
        ({"grammar": object()}, "grammar"),
        ({"stream": True}, "stream"),
        ({"attention_mask": [[1]]}, "attention_mask"),
    ],
)
async def test_what_cannot_travel_is_refused_here(fake: FakeClient, arguments: dict[str, Any], field: str) -> None:
    async with connected(fake) as (client, transport):
        with pytest.raises(RequestError) as caught:
            await client.generate("Once", **arguments)
    assert caught.value.field == field
    assert transport.requests == []


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({"num_beamz": 2}, "num_beamz", "unknown field"),
        ({"num_return_sequences": 5}, "num_return_sequences", "limit is 4"),
        ({"compile_config": {}}, "compile_config", "not served over HTTP"),
        ({"model": "other"}, "model", "only 'toy'"),
        ({"temperature": -1.0, "do_sample": True}, "temperature", "> 0"),
    ],
)
async def test_refusals_are_those_of_the_server(
    fake: FakeClient, arguments: dict[str, Any], field: str, words: str
) -> None:
    async with connected(fake) as (client, _):
        with pytest.raises(RequestError, match=words) as caught:
            await client.generate("Once", **arguments)
    assert caught.value.field == field


async def test_keys(fake: FakeClient) -> None:
    keys = Keys(None, {ONE_KEY: "open-sesame"})
    async with connected(fake, keys=keys) as (client, _):
        with pytest.raises(RequestError, match="an API key is needed") as caught:
            await client.generate("Once")
    assert caught.value.field == "api_key"
    async with connected(fake, keys=keys, api_key="open-sesame") as (client, _):
        assert (await client.generate("Once", max_new_tokens=2)).texts


async def test_a_full_server_is_asked_again_when_it_says(fake: FakeClient) -> None:
    waits: list[float] = []
    busy: list[httpx.Response | Exception] = [
        httpx.Response(429, headers={"retry-after": "7"}, json={"error": {"message": "full"}}),
        httpx.Response(503, json={"error": {"message": "not ready"}}),
        httpx.ConnectError("refused"),
    ]
    async with connected(fake, busy, waits) as (client, transport):
        found = await client.generate("Once", max_new_tokens=200)
    assert found.texts == [TEXT]
    assert waits == [7.0, 2.0, 4.0]
    assert len({request.content for request in transport.requests}) == 1


async def test_in_the_end_it_gives_up(fake: FakeClient) -> None:
    fake.is_overloaded = True
    waits: list[float] = []
    async with connected(fake, waits=waits, max_retries=2) as (client, transport):
        with pytest.raises(OverloadedError, match="too many requests in flight"):
            await client.generate("Once")
        with pytest.raises(OverloadedError):
            await anext(client.stream("Once"))
    assert len(transport.requests) == 6
    assert waits == [1.0] * 4


async def test_what_may_have_begun_is_not_sent_again(fake: FakeClient) -> None:
    async with connected(fake, [httpx.ReadError("gone")]) as (client, transport):
        with pytest.raises(GenerationError, match="cannot be reached: ReadError"):
            await client.generate("Once")
    assert len(transport.requests) == 1


async def test_an_answer_that_is_none(fake: FakeClient) -> None:
    async with connected(fake, [httpx.Response(200, content=b"<html>")]) as (client, _):
        with pytest.raises(GenerationError, match="cannot be read"):
            await client.generate("Once")


def test_bodies_are_json() -> None:
    body = request_body(
        ("a", "b"), negative_prompt_ids=np.array([[0, 4]]), negative_prompt_attention_mask=np.array([[0, 1]]),
        not_sent={}, fields={"guidance_scale": np.float32(1.5), "top_k": None, "do_sample": None},
    )  # fmt: skip
    assert body == {"prompt": ["a", "b"], "negative_prompt_ids": [[4]], "guidance_scale": 1.5, "top_k": None}
