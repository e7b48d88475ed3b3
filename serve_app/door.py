"""What stands before the application: who may come in, how many at once, and how long they may take.

It is ASGI around ASGI: what is refused here costs microseconds, and nothing of its body is read.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, HTTPScope, Message, Receive, Scope, Send

from actors.engine.errors import OverloadedError
from cluster.config import LimitsConfig
from serve_app.errors import ApiError, body_too_slow, client_gone, from_exception, headers_of, timed_out, unauthorized
from serve_app.gateway import Gateway
from serve_app.keys import Keys
from serve_app.routes.playground import FILES

SEND_SLACK = 10.0  # seconds that the last of an answer may take to be sent once its time is over

# Told to everyone: whether the process lives and serves, and the static pages, which hold nothing of the cluster.
OPEN_PATHS = frozenset({"/health", "/ready", "/", "/docs"} | {f"/static/{name}" for name in FILES})


class Door:
    """Lets requests through to the application, or answers them itself.

    Args:
        app: the application.
        keys: of which a request must carry one; None lets everyone in.
        limits: bounds of a request.
        gateway: gives what requests are counted by, once the application has started.
    """

    def __init__(self, app: ASGIApp, keys: Keys | None, limits: LimitsConfig, gateway: Callable[[], Gateway]) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        if self._keys is not None and (refusal := _check_key(self._keys, scope)) is not None:
            await self._refuse(refusal, send)
        elif scope["method"] != "POST":
            await self._app(scope, receive, send)
        else:
            await self._take_in(scope, receive, send)

    async def _take_in(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Pass on a request that may be work for the cluster, if there is room for it."""
        answer = _Answer(send)
        try:
            with self._gateway().admission.request():
                body = _Body(receive, self._limits.body_timeout)
                async with asyncio.timeout(self._max_seconds):
                    await self._app(scope, body.receive, answer.send)
        except OverloadedError as error:
            await self._refuse(from_exception(error), send)
        except TimeoutError:  # the answer cannot be got rid of: nobody reads it
            if not answer.is_begun:
                await self._refuse(timed_out(self._limits.request_timeout), send)

    @property
    def _max_seconds(self) -> float:
        return self._limits.body_timeout + self._limits.request_timeout + SEND_SLACK

    async def _refuse(self, error: ApiError, send: Send) -> None:
        self._gateway().metrics.count_error(error.status)
        content = msgspec.json.encode(error.body)
        headers = {"content-type": "application/json", "content-length": str(len(content))} | headers_of(error)
        await send(
            {
                "type": "http.response.start",
                "status": error.status,
                "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            }
        )
        await send({"type": "http.response.body", "body": content, "more_body": False})


class _Answer:
    """Knows whether an answer has begun, after which it has its status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_begun = False

    async def send(self, message: Message) -> None:
        self.is_begun = True
        await self._send(message)


class _Body:
    """A request's body on its way: it must come in time, and its sender must stay until it is there."""

    def __init__(self, receive: Receive, seconds: float) -> None:
        self._receive = receive
        self._seconds = seconds
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._is_complete = False

    async def receive(self) -> HTTPReceiveMessage:
        """The next message. Raises ApiError 408 and 499 while the body is not complete."""
        if self._is_complete:
            return cast("HTTPReceiveMessage", await self._receive())
        try:
            async with asyncio.timeout_at(self._deadline):
                message = cast("HTTPReceiveMessage", await self._receive())
        except TimeoutError:
            raise body_too_slow(self._seconds) from None
        if message["type"] == "http.disconnect":
            raise client_gone()
        self._is_complete = not message.get("more_body", False)
        return message


def _check_key(keys: Keys, scope: HTTPScope) -> ApiError | None:
    """Why a request may not come in; None where it may."""
    if scope["path"].removeprefix(scope.get("root_path", "")) in OPEN_PATHS:
        return None
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    return None if keys.accept(given) else unauthorized(is_given=bool(given))
