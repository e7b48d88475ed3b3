"""Routes that write text."""

from typing import Any, Protocol

import msgspec
from litestar import Response, post
from litestar.datastructures import ResponseHeader
from litestar.openapi.datastructures import ResponseSpec

from serve_app.answer_form import asked_form, render, takes_tensors
from serve_app.body import StrictRequest, given_names
from serve_app.chat import ChatCompletionRequest
from serve_app.chat_answers import ChatCompletion
from serve_app.chat_job import ChatJob
from serve_app.completion_job import CompletionJob
from serve_app.completions import CompletionRequest, CompletionResponse
from serve_app.errors import ErrorBody
from serve_app.gateway import Gateway
from serve_app.generation_request import prepare_generation
from serve_app.generations import GenerateRequest, GenerateResponse
from serve_app.sse import Chunks, open_stream, until_disconnect

ERRORS = {
    status: ResponseSpec(data_container=ErrorBody, description=words, generate_examples=False)
    for status, words in {
        400: "A value is out of bounds; param names the field.",
        401: "An API key is needed, or this one is not known.",
        404: "No such model.",
        413: "The body is over the limit.",
        422: "A wrong type or an unknown field.",
        429: "Too much is in flight; retry later.",
        503: "No target is ready.",
    }.items()
}
NO_TENSORS = {
    406: ResponseSpec(
        data_container=ErrorBody,
        description="Tensors are asked for, but JSON carries none: Accept says what would.",
        generate_examples=False,
    )
}
# Serve sets it.
REQUEST_ID = [
    ResponseHeader(name="x-request-id", description="By which Serve's logs know the request.", documentation_only=True)
]


class Job(Protocol):
    """A request that was checked and planned."""

    async def answer(self) -> msgspec.Struct:
        """Run to the end and return the whole answer."""

    def chunks(self) -> Chunks:
        """Run and yield what is to be streamed."""


async def _answer(request: StrictRequest, job: Job, is_stream: bool) -> Response[Any]:
    """Answer whole or as a stream."""
    if is_stream:
        return await open_stream(request, job.chunks())
    return Response(await until_disconnect(request, job.answer()))


@post(
    "/v1/completions",
    status_code=200,
    tags=["generation"],
    summary="Continue one prompt or several, OpenAI's way",
    description="With stream, chunks of the same shape come as server-sent events, [DONE] last.",
    responses={200: ResponseSpec(data_container=CompletionResponse, generate_examples=False), **ERRORS},
    response_headers=REQUEST_ID,
)
async def completions(data: CompletionRequest, request: StrictRequest, gateway: Gateway) -> Response[Any]:
    """Answer whole or as a stream."""
    return await _answer(request, await CompletionJob.prepare(gateway, data), bool(data.stream))


@post(
    "/v1/chat/completions",
    status_code=200,
    tags=["generation"],
    summary="Answer in a conversation, OpenAI's way",
    description="With stream, chunks come as server-sent events (ChatCompletionChunk), [DONE] last.",
    responses={200: ResponseSpec(data_container=ChatCompletion, generate_examples=False), **ERRORS},
    response_headers=REQUEST_ID,
)
async def chat_completions(data: ChatCompletionRequest, request: StrictRequest, gateway: Gateway) -> Response[Any]:
    """Answer whole or as a stream."""
    return await _answer(request, await ChatJob.prepare(gateway, data), bool(data.stream))


@post(
    "/generate",
    status_code=200,
    tags=["generation"],
    summary="Continue prompts with any field of transformers' GenerationConfig",
    description="What the engine does not batch, transformers' own code runs: guidance, tensors as output, "
    "encoder-decoders. With stream, one JSON object a step comes as a server-sent event, [DONE] last.",
    responses={200: ResponseSpec(data_container=GenerateResponse, generate_examples=False), **ERRORS, **NO_TENSORS},
    response_headers=REQUEST_ID,
)
async def generate(data: GenerateRequest, request: StrictRequest, gateway: Gateway) -> Response[Any]:
    """Answer whole or as a stream."""
    form = asked_form(request)
    given = given_names(await request.body())
    job = await prepare_generation(gateway, data, given, takes_tensors=takes_tensors(form))
    if data.stream or not takes_tensors(form):
        return await _answer(request, job, data.stream)
    answer, tensors = await until_disconnect(request, job.answer_with_tensors())
    return render(form, answer, tensors)
