"""``/v1/completions``: OpenAI's shapes, plain and streamed."""

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from actors.engine.request import Delta, Request, TokenLogprobs
from tests.serve_app.fakes import MODEL, TEXT, TOKENIZER, FakeClient, make_app

pytestmark = pytest.mark.anyio
Http = AsyncTestClient[Litestar]


async def post(http: Http, **body: Any) -> dict[str, Any]:
    """Post and expect success."""
    response = await http.post("/v1/completions", json={"prompt": "Once", "max_tokens": 200} | body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def stream(http: Http, **body: Any) -> list[dict[str, Any]]:
    """Post, expect a whole stream and return its chunks."""
    body = {"prompt": "Once", "max_tokens": 200, "stream": True} | body
    response = await http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = response.text.split("\n\n")
    assert done == "data: [DONE]"
    assert rest == ""
    return [json.loads(event.removeprefix("data: ")) for event in events]


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    """All text of one choice."""
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index)


async def test_plain_answer_has_openais_shape(http: Http) -> None:
    answer = await post(http, model=MODEL)
    assert answer["object"] == "text_completion"
    assert answer["model"] == MODEL
    assert answer["choices"] == [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}]
    usage = answer["usage"]
    assert usage["prompt_tokens"] == len(TOKENIZER.encode("Once"))
    assert usage["completion_tokens"] == len(TOKENIZER.encode(TEXT))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_default_is_sixteen_tokens_sampled(http: Http, fake: FakeClient) -> None:
    answer = (await http.post("/v1/completions", json={"prompt": "Once"})).json()
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["choices"][0]["finish_reason"] == "length"
    params = fake.requests[0].params
    assert params.do_sample
    assert params.top_k is None
    assert params.eos_token_id == (0,)


async def test_temperature_zero_is_greedy(http: Http, fake: FakeClient) -> None:
    await post(http, temperature=0)
    assert not fake.requests[0].params.do_sample


async def test_fields_reach_the_engine(http: Http, fake: FakeClient) -> None:
    await post(
        http, temperature=0.7, top_p=0.9, top_k=-1, min_p=0.1, repetition_penalty=1.1, presence_penalty=0.5,
        frequency_penalty=-0.5, seed=7, stop="zzz", min_tokens=3, ignore_eos=True, logit_bias={"5": -100},
        num_assistant_tokens=0, logprobs=2,
    )  # fmt: skip
    params = fake.requests[0].params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.7, 0.9, None, 0.1)
    assert (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) == (1.1, 0.5, -0.5)
    assert (params.seed, params.stop_strings, params.min_new_tokens, params.ignore_eos) == (7, ("zzz",), 3, True)
    assert (params.logit_bias, params.num_assistant_tokens, params.logprobs) == ({5: -100.0}, 0, 2)


async def test_max_tokens_is_cut_to_the_context(http: Http, fake: FakeClient) -> None:
    await post(http, prompt=[1, 2, 3], max_tokens=2**31 - 1)
    assert fake.requests[0].params.max_new_tokens == 253


@pytest.mark.parametrize("prompt", ["Once", [1, 2], ["Once", "Twice"], [[1], [2, 3]]])
async def test_every_spelling_of_a_prompt(http: Http, fake: FakeClient, prompt: Any) -> None:
    answer = await post(http, prompt=prompt)
    num_prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    assert [choice["index"] for choice in answer["choices"]] == list(range(num_prompts))
    assert len(fake.requests) == num_prompts
    assert answer["usage"]["prompt_tokens"] == sum(len(request.prompt_token_ids) for request in fake.requests)


async def test_n_answers_have_seeds_of_their_own(http: Http, fake: FakeClient) -> None:
    answer = await post(http, prompt=["a", "b"], n=3, seed=5)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    seeds = [request.params.seed for request in sorted(fake.requests, key=lambda request: request.request_id)]
    assert seeds[0] == 5
    assert seeds[:3] == seeds[3:]
    assert len(set(seeds)) == 3


async def test_a_seed_may_be_negative(http: Http, fake: FakeClient) -> None:
    await post(http, seed=-1)
    await post(http, seed=-2)
    assert [request.params.seed for request in fake.requests] == [2**63 - 1, 2**63 - 2]


async def test_without_a_seed_each_request_draws_one(http: Http, fake: FakeClient) -> None:
    await post(http)
    await post(http)
    assert fake.requests[0].params.seed != fake.requests[1].params.seed


async def test_stream_says_what_the_plain_answer_says(http: Http) -> None:
    chunks = await stream(http, n=2)
    assert text_of(chunks, 0) == text_of(chunks, 1) == TEXT
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert sorted(reasons, key=str) == [None] * (len(reasons) - 2) + ["stop", "stop"]
    assert "usage" not in chunks[0]
    assert set(chunks[0]["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}


async def test_stream_with_usage(http: Http) -> None:
    *chunks, last = await stream(http, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == len(TOKENIZER.encode(TEXT))


async def test_origins_come_where_asked_for(http: Http) -> None:
    chunks = await stream(http, return_token_ids=True)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [token_id for choice in choices for token_id in choice["token_ids"]] == TOKENIZER.encode(TEXT)
    for choice in choices:
        assert "".join(text for text, _ in choice["slipstream"]["segments"]) == choice["text"]
    first = choices[0]["slipstream"]
    assert (first["num_drafted"], first["num_accepted"]) == (4, 3)
    assert [is_accepted for _, is_accepted in first["segments"]] == [True, False]
    assert [index for index, choice in enumerate(choices) if "stats" in choice["slipstream"]] == [len(choices) - 1]
    assert choices[-1]["slipstream"]["stats"]["num_ahead_hits"] == 3


@pytest.mark.parametrize("num_per_step", [1, 3, 50])
@pytest.mark.parametrize("stop", ["river", "r at n", ["nobody", "sky"], "été"])
async def test_stop_string_cuts_the_text(http: Http, fake: FakeClient, stop: Any, num_per_step: int) -> None:
    fake.num_per_step = num_per_step
    first = stop if isinstance(stop, str) else stop[0]
    answer = await post(http, stop=stop)
    assert answer["choices"][0]["text"] == TEXT[: TEXT.index(first)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert text_of(await stream(http, stop=stop)) == TEXT[: TEXT.index(first)]
    assert not fake.running


async def test_stop_string_takes_the_rest_of_the_sequence_back(http: Http, fake: FakeClient) -> None:
    await post(http, stop="ship")
    assert fake.taken_back == [fake.requests[0].request_id]


async def test_echo(http: Http) -> None:
    assert (await post(http, echo=True))["choices"][0]["text"] == "Once" + TEXT
    assert text_of(await stream(http, echo=True, prompt=TOKENIZER.encode("Once"))) == "Once" + TEXT


async def test_logprobs(http: Http) -> None:
    answer = await post(http, logprobs=2, max_tokens=6)
    logprobs = answer["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) == answer["choices"][0]["text"]
    assert logprobs["token_logprobs"] == [-0.5] * 6
    assert logprobs["text_offset"] == [sum(map(len, logprobs["tokens"][:place])) for place in range(6)]
    assert len(logprobs["top_logprobs"][0]) == 2
    assert (await post(http, logprobs=0))["choices"][0]["logprobs"]["top_logprobs"] is None
    chunks = await stream(http, logprobs=1, max_tokens=6)
    parts = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks]
    assert [offset for part in parts for offset in part] == logprobs["text_offset"]


async def test_tokens_in_logprobs_are_named_apart(http: Http) -> None:
    """Parts of characters have no text; two of them must not share a name."""
    logprobs = (await post(http, logprobs=0))["choices"][0]["logprobs"]
    parts = [name for name in logprobs["tokens"] if name.startswith("bytes:")]
    assert "bytes:\\xe2\\x80" in parts
    assert not any("\N{REPLACEMENT CHARACTER}" in name for name in logprobs["tokens"])
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
    assert logprobs["text_offset"][-1] < len(TEXT)
    named = (await post(http, logprobs=1, return_tokens_as_token_ids=True))["choices"][0]["logprobs"]
    assert named["tokens"] == [f"token_id:{token_id}" for token_id in TOKENIZER.encode(TEXT)]
    assert set(named["top_logprobs"][0]) == {named["tokens"][0]}


@pytest.mark.parametrize("prompt", ["Once more", TOKENIZER.encode("Once more")])
async def test_echo_with_logprobs(http: Http, prompt: Any) -> None:
    choice = (await post(http, prompt=prompt, echo=True, logprobs=1, max_tokens=2))["choices"][0]
    logprobs = choice["logprobs"]
    ids = TOKENIZER.encode("Once more") + TOKENIZER.encode(TEXT)[:2]
    assert logprobs["tokens"] == [TOKENIZER.decode([token_id], skip_special_tokens=False) for token_id in ids]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert logprobs["token_logprobs"] == [None] + [-0.5] * (len(ids) - 1)
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"] == [sum(map(len, logprobs["tokens"][:place])) for place in range(len(ids))]
    chunks = [chunk["choices"][0]["logprobs"] for chunk in await stream(http, prompt=prompt, echo=True, logprobs=1)]
    for name in logprobs:
        assert [item for chunk in chunks for item in chunk[name]][: len(ids)] == logprobs[name]


async def test_a_prompt_is_scored_without_a_new_token(http: Http, fake: FakeClient) -> None:
    answer = await post(http, prompt=["Once more", "a"], echo=True, logprobs=1, max_tokens=0)
    ids = TOKENIZER.encode("Once more")
    first, second = answer["choices"]
    assert (first["text"], first["finish_reason"]) == ("Once more", "length")
    assert first["logprobs"]["token_logprobs"] == [None] + [-0.5] * (len(ids) - 1)
    assert second["logprobs"]["token_logprobs"] == [None]
    assert answer["usage"]["completion_tokens"] == 0
    assert fake.requests[0].params.max_new_tokens == 1
    [*chunks, last] = await stream(http, prompt="Once", echo=True, max_tokens=0, stream_options={"include_usage": True})
    assert text_of(chunks) == "Once"
    assert last["usage"]["completion_tokens"] == 0


async def test_prompt_logprobs(http: Http) -> None:
    ids = TOKENIZER.encode("Once")
    found = (await post(http, prompt_logprobs=2))["choices"][0]["prompt_logprobs"]
    assert [None if entry is None else set(entry) for entry in found] == [None, *({str(i), "1"} for i in ids[1:])]
    assert found[1][str(ids[1])]["rank"] == 1
    assert (found[1]["1"]["logprob"], found[1]["1"]["rank"]) == (-2.0, 2)
    own = (await post(http, prompt_logprobs=0))["choices"][0]["prompt_logprobs"]
    assert own[1][str(ids[1])]["rank"] is None


class Rated(FakeClient):
    """Tells of each sequence a text and a probability of its own."""

    async def _deltas(self, request: Request) -> AsyncIterator[Delta]:
        number = int(request.request_id.rpartition("-")[2])
        self.text = f" number {number}"
        async for delta in super()._deltas(request):
            logprobs = tuple(TokenLogprobs(-abs(number % 4 - 1.6)) for _ in delta.token_ids)
            yield msgspec.structs.replace(delta, logprobs=logprobs)


class Silent(FakeClient):
    """An engine that gives no log-probabilities."""

    async def _deltas(self, request: Request) -> AsyncIterator[Delta]:
        async for delta in super()._deltas(request):
            yield msgspec.structs.replace(delta, logprobs=None, prompt_logprobs=None)


@pytest.mark.parametrize("field", ["logprobs", "prompt_logprobs"])
async def test_a_model_without_logprobs_says_so(field: str) -> None:
    async with AsyncTestClient(make_app(Silent())) as http:
        response = await http.post("/v1/completions", json={"prompt": "Once", field: 1})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field


async def test_the_best_of_several() -> None:
    fake = Rated()
    async with AsyncTestClient(make_app(fake)) as http:
        answer = await post(http, prompt=["a", "b"], best_of=4, n=2)
        shown = await post(http, prompt=["a", "b"], best_of=4, n=1, logprobs=0)
    assert [choice["text"] for choice in answer["choices"]] == [f" number {number}" for number in (2, 1, 6, 5)]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["choices"][0]["logprobs"] is None
    assert shown["choices"][1]["logprobs"]["token_logprobs"][0] == pytest.approx(-0.4)
    assert answer["usage"]["completion_tokens"] == sum(len(TOKENIZER.encode(f" number {n}")) for n in range(8))


async def test_fields_that_shape_prompt_and_text(http: Http, fake: FakeClient) -> None:
    await post(http, prompt="Once more", truncate_prompt_tokens=2)
    assert fake.requests[-1].prompt_token_ids == tuple(TOKENIZER.encode("Once more")[-2:])
    await post(http, prompt="Once more " * 100, truncate_prompt_tokens=-1)
    assert len(fake.requests[-1].prompt_token_ids) == 255
    kept = await post(http, stop="river", include_stop_str_in_output=True)
    assert kept["choices"][0]["text"] == TEXT[: TEXT.index("river") + 5]
    shown = await post(http, prompt=[0, 5], echo=True, skip_special_tokens=False, max_tokens=1)
    assert shown["choices"][0]["text"].startswith("<eos>")


async def test_failure_in_the_stream_is_an_event(http: Http, fake: FakeClient) -> None:
    fake.error = "out of luck"
    *chunks, last = await stream(http)
    assert chunks
    assert last["error"]["message"] == "generation failed: out of luck"
    assert last["error"]["code"] == "generation_failed"


async def test_failure_of_a_plain_answer(http: Http, fake: FakeClient) -> None:
    fake.error = "out of luck"
    response = await http.post("/v1/completions", json={"prompt": "a", "max_tokens": 100})
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "generation failed: out of luck"
