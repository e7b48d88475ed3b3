import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from cluster.background import BackgroundLoop


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop("test-loop")
    yield loop
    loop.close()


async def thread_name() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


def test_work_runs_on_the_loops_thread(loop: BackgroundLoop) -> None:
    assert loop.call(thread_name()) == "test-loop"


def test_errors_are_raised_here(loop: BackgroundLoop) -> None:
    async def fail() -> None:
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        loop.call(fail())


def test_items_arrive_before_the_error_behind_them(loop: BackgroundLoop) -> None:
    async def produce(emit: Callable[[int], None]) -> None:
        emit(1)
        await asyncio.sleep(0)
        emit(2)
        raise LookupError

    seen = []
    with pytest.raises(LookupError):
        for item in loop.iterate(produce):
            seen.append(item)
    assert seen == [1, 2]


def test_leaving_early_cancels_and_waits_for_the_clean_up(loop: BackgroundLoop) -> None:
    cleaned = []

    async def produce(emit: Callable[[int], None]) -> None:
        try:
            emit(1)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned.append(True)

    with closing(loop.iterate(produce)) as items:
        assert next(items) == 1
    assert cleaned == [True]


def test_closing_twice_is_harmless() -> None:
    loop = BackgroundLoop("test-loop")
    loop.close()
    loop.close()
    assert not any(thread.name == "test-loop" for thread in threading.enumerate())
