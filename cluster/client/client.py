"""The client: requests, retries, streams."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from actors.engine.errors import GenerationError, RequestError, SlipstreamError
from cluster.client.body import request_body
from cluster.client.failures import TRY_AGAIN, failure, retry_after, stream_failure
from cluster.client.results import Generated, Piece, read_generated

PATH = "/generate"
CONNECT_SECONDS = 10.0


class Client:
    """Calls ``generate`` on a server. Used from one event loop; calls may run side by side.

    Args:
        url: of the server.
        api_key: where it demands one.
        model: the served model's name; None takes what is served.
        timeout: seconds that one request may take; the server ends it then.
        max_retries: times that a request is sent again where the server is full, not ready or not reached.
        transport: in place of the network, as httpx has it.
        sleep: waits between two tries.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout: float = 600.0,
        max_retries: int = 5,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._model = model
        self._max_retries = max_retries
        self._sleep = sleep
        headers = {"X-Request-Timeout": f"{timeout:g}"}
        if api_key is not None:
            headers["Authorization"] = f"Bearer {api_key}"
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(timeout + CONNECT_SECONDS, connect=CONNECT_SECONDS, pool=None),
            transport=transport,
        )

    async def generate(
        self,
        inputs: Any = None,
        generation_config: Any = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        prefix_allowed_tokens_fn: Any = None,
        synced_gpus: bool | None = None,
        assistant_model: Any = None,
        streamer: Any = None,
        negative_prompt_ids: Any = None,
        negative_prompt_attention_mask: Any = None,
        custom_generate: Any = None,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Generated:
        """Generate behind prompts, with the arguments of ``model.generate``.

        Args:
            inputs: a text or a list of texts; token ids, a list of lists of them, or an array (rows, width) with its
                ``attention_mask``.
            generation_config: a mapping or a ``GenerationConfig``; keyword arguments lie over it.
            logits_processor: names of what the server's operator has registered, or mappings of ``name`` and ``args``.
            stopping_criteria: the same.
            prefix_allowed_tokens_fn: cannot be sent.
            synced_gpus: without meaning.
            assistant_model: the name of one of the server's drafts, or "none"; a model cannot be sent.
            streamer: cannot be sent; see :meth:`stream`.
            negative_prompt_ids: for ``guidance_scale``; or ``negative_prompt``, a text.
            negative_prompt_attention_mask: what of them counts.
            custom_generate: cannot be sent.
            seed: fixes all randomness; one is drawn by default.
            kwargs: fields of ``GenerationConfig``, and the server's own: ``logprobs``, ``grammar``, ``logit_bias``, ...

        Returns:
            transformers' output in numpy, with the tensors that were asked for, and its texts.

        Raises:
            OverloadedError: the server is full, even after retries.
            RequestError: an argument that is refused; names the field.
            GenerationError: the request failed, or the server cannot be reached.
        """
        if kwargs.get("stream"):
            raise RequestError("stream: iterate over Client.stream in place of generate", field="stream")
        body = self._body(
            inputs,
            generation_config=generation_config,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            negative_prompt_ids=negative_prompt_ids,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            not_sent={
                "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
                "assistant_model": None if isinstance(assistant_model, str) else assistant_model,
                "streamer": streamer,
                "custom_generate": custom_generate,
            },
            fields={**kwargs, **_present(seed=seed, assistant_model=assistant_model)},
        )
        async with AsyncExitStack() as stack:
            response = await self._send(stack, body, "application/x-safetensors")
            return read_generated(await _read(response))

    async def stream(
        self,
        inputs: Any = None,
        generation_config: Any = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Piece]:
        """The same, piece by piece as text comes; leaving the loop ends the request.

        Raises what :meth:`generate` raises, once it is iterated.
        """
        negative = {name: kwargs.pop(name, None) for name in ("negative_prompt_ids", "negative_prompt_attention_mask")}
        body = self._body(
            inputs,
            generation_config=generation_config,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            **negative,
            not_sent={},
            fields={**kwargs, **_present(seed=seed), "stream": True},
        )
        async with AsyncExitStack() as stack:
            response = await self._send(stack, body, "text/event-stream")
            try:
                async for line in response.aiter_lines():
                    data = line.removeprefix("data: ")
                    if data == "[DONE]":
                        return
                    if data:
                        yield _piece(data)
            except httpx.HTTPError as error:
                raise _lost(error) from error
            raise GenerationError("the stream ended before the text did")

    async def close(self) -> None:
        """Give back connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _body(self, inputs: Any, **arguments: Any) -> bytes:
        body = request_body(inputs, **arguments)
        if self._model is not None:
            body.setdefault("model", self._model)
        return msgspec.json.encode(body)

    async def _send(self, stack: AsyncExitStack, body: bytes, accept: str) -> httpx.Response:
        """The response to a request, its body unread and open for as long as the stack. Raises SlipstreamError."""
        headers = {"Content-Type": "application/json", "Accept": accept}
        for attempt in range(self._max_retries + 1):
            is_last = attempt == self._max_retries
            request = self._http.build_request("POST", PATH, content=body, headers=headers)
            try:
                response = await self._http.send(request, stream=True)
            except httpx.HTTPError as error:
                if is_last or not isinstance(error, httpx.ConnectError):  # any other may have begun to run
                    raise _lost(error) from error
                await self._sleep(retry_after(None, attempt))
                continue
            if response.is_success:
                stack.push_async_callback(response.aclose)
                return response
            content = await _read(response)
            await response.aclose()
            if is_last or response.status_code not in TRY_AGAIN:
                raise failure(response.status_code, content)
            await self._sleep(retry_after(response.headers.get("Retry-After"), attempt))
        raise AssertionError("a loop without an end")


async def _read(response: httpx.Response) -> bytes:
    try:
        return await response.aread()
    except httpx.HTTPError as error:
        raise _lost(error) from error


def _piece(data: str) -> Piece:
    event = msgspec.json.decode(data)
    if "error" in event:
        raise stream_failure(event["error"])
    return msgspec.convert(event, Piece)


def _lost(error: Exception) -> SlipstreamError:
    return GenerationError(f"the server cannot be reached: {type(error).__name__}: {error}")


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
