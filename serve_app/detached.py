"""Work that a request waits for, but that does not die by Ray's hand when the request does.

When a client hangs up, Serve cancels the replica's call and all that was called under it. Ray knows what belongs to a
call by a context variable, and recalls even messages that are on their way; the actor that they were meant for then
waits half a minute for the gap in their numbers to close, and everyone else waits with it. So the cluster is called
from outside of a request's context, and what must end with a request is cancelled by us.
"""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def spawn(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start ``work`` as a task in an empty context."""
    return asyncio.create_task(work, context=contextvars.Context())
