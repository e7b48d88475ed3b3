"""Work that a request waits for, but that does not die by Ray's hand when the request does.

When a client hangs up, Serve cancels the replica's call with everything that was called under it: Ray knows what belongs
to a call by a context variable, and recalls even messages that are on their way. An actor would then wait half a minute
for a message that never comes, and everyone else with it. So the cluster is called outside of a request's context, and
what must end with the request is cancelled by us.
"""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def spawn(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start ``work`` as a task in an empty context."""
    return asyncio.create_task(work, context=contextvars.Context())
