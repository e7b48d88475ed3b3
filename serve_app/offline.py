"""The routes without HTTP: what a batch job asks is checked, run and answered by the same code as a posted body."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from actors.router_client import RouterClient
from cluster.batch.answering import Answer, Answerer
from cluster.config import ClusterConfig
from serve_app.body import decode
from serve_app.chat import ChatCompletionRequest
from serve_app.chat_job import ChatJob
from serve_app.completion_job import CompletionJob
from serve_app.completions import CompletionRequest
from serve_app.connect import open_gateway
from serve_app.errors import ApiError, from_exception
from serve_app.gateway import Gateway

TIMEOUT_SECONDS = 30 * 86400.0  # a request of a batch may wait for as long as the others take


class Job(Protocol):
    """A request on its way."""

    async def answer(self) -> Any:
        """Run to the end and return the whole answer."""


ROUTES: dict[str, tuple[type[Any], Callable[[Gateway, Any], Awaitable[Job]]]] = {
    "/v1/completions": (CompletionRequest, CompletionJob.prepare),
    "/v1/chat/completions": (ChatCompletionRequest, ChatJob.prepare),
}


class OfflineAnswerer(Answerer):
    """Answers bodies on one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def answer(self, url: str, body: bytes, seed: int) -> Answer:
        """See :class:`cluster.batch.answering.Answerer`."""
        try:
            result = await self._result(url, body, seed)
        except Exception as error:
            refusal = from_exception(error)
            return Answer(status_code=refusal.status, body=msgspec.json.encode(refusal.body))
        return Answer(
            status_code=200,
            body=msgspec.json.encode(result),
            num_prompt_tokens=result.usage.prompt_tokens,
            num_completion_tokens=result.usage.completion_tokens,
        )

    async def is_serving(self) -> bool:
        """See :class:`cluster.batch.answering.Answerer`."""
        try:
            await self._gateway.card(max_age=0.0)
        except ApiError:
            return False
        return True

    async def _result(self, url: str, body: bytes, seed: int) -> Any:
        if url not in ROUTES:
            raise ApiError(400, f"url: {url} is not served in batches", param="url")
        request_type, prepare = ROUTES[url]
        data = decode(body, request_type)
        if data.stream:
            raise ApiError(400, "stream: a batch has no streams; leave it out", param="stream", code="invalid_value")
        if data.seed is None:
            data = msgspec.structs.replace(data, seed=seed)
        return await (await prepare(self._gateway, data)).answer()


async def open_answerer(config: ClusterConfig) -> Answerer:
    """Connect to the cluster of ``config`` on this Ray. Raises SlipstreamError where its router does not run."""
    limits = msgspec.structs.replace(config.limits, request_timeout=TIMEOUT_SECONDS)
    return OfflineAnswerer(open_gateway(await RouterClient.connect(), config, limits))
