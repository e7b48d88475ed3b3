"""What a batch job needs of the routes. The HTTP side of the house fulfils it; tests put a fake there."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from cluster.config import ClusterConfig


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a route says to one body: JSON with its HTTP status, and the tokens that it took."""

    status_code: int
    body: bytes
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0


class Answerer(Protocol):
    """Answers bodies as the routes do. Used from one event loop."""

    async def answer(self, url: str, body: bytes, seed: int) -> Answer:
        """Run one request to its end, with ``seed`` where its body names none. Never raises for what a request asks."""

    async def is_serving(self) -> bool:
        """Whether the cluster could answer now."""


OpenAnswerer = Callable[[ClusterConfig], Awaitable[Answerer]]
"""Connects to the cluster that runs on this Ray; a module's function, so that it travels by its name."""
