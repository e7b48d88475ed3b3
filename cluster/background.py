"""An event loop on its own thread, so that code without ``async`` can drive an asyncio client."""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

CANCEL_TIMEOUT = 5.0
"""Seconds that cancelled work has to clean up after itself."""


async def awaited(awaitable: Awaitable[T]) -> T:
    """Make a coroutine of anything that can be awaited, since loops run only these."""
    return await awaitable


class BackgroundLoop:
    """Runs coroutines on a daemon thread for callers on other threads.

    An exception in the caller's thread while it waits (Ctrl-C above all) cancels the work it waits for.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end and return its result or raise its error."""
        results: list[T] = []

        async def produce(emit: Callable[[T], None]) -> None:
            emit(await work)

        results.extend(self.iterate(produce))
        return results[0]

    def iterate(self, produce: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]) -> Generator[T, None, None]:
        """Run ``produce(emit)`` on the loop and yield here what it emits; then raise its error, if it had one.

        Ending the iteration early cancels the coroutine and waits for its clean-up.
        """
        job = _Job(self._loop, produce)
        try:
            yield from job
        finally:
            job.cancel()

    def close(self) -> None:
        """Stop the loop and join its thread; closing twice is harmless."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CANCEL_TIMEOUT)
        if not self._thread.is_alive():
            self._loop.close()


class _Job(Generic[T]):
    """One coroutine on the loop, and the queue over which its items cross to the caller's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        produce: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]],
    ) -> None:
        self._loop = loop
        self._items: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        loop.call_soon_threadsafe(self._start, produce)

    def __iter__(self) -> Iterator[T]:
        while (item := self._items.get()) is not None:
            yield item[0]
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Cancel the coroutine, unless it has ended, and wait for its clean-up."""
        if self._ended.is_set() or self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._cancel)
        self._ended.wait(CANCEL_TIMEOUT)

    def _start(self, produce: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]) -> None:
        self._task = self._loop.create_task(produce(lambda item: self._items.put((item,))))
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._error = asyncio.CancelledError()
        else:
            self._error = task.exception()
        self._ended.set()
        self._items.put(None)
