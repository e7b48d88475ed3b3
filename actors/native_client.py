"""A caller's end of transformers' own ``generate`` in a target actor."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import ray

from actors.config import NAMESPACE
from actors.engine.declared_call import DeclaredCall
from actors.engine.errors import GenerationError
from actors.native_job import Failed, Output, Tokens
from actors.status import ClusterStats

if TYPE_CHECKING:
    from actors.engine.native_generation import NativeCall

logger = logging.getLogger(__name__)

MAX_NUM_DEATHS = 2  # targets that a call may take down before it fails
RETRY_DELAY = 0.5
MAX_WAIT = 120.0  # seconds that a call waits for a target


@dataclass(frozen=True)
class Result:
    """What a call came to.

    Attributes:
        output: see :class:`actors.native_job.Output`.
        fetch: gets a large field by its name, once it is asked for.
    """

    output: Output
    fetch: Callable[[str], Any]


async def run_native(
    call: "NativeCall | DeclaredCall", model: str, stats: Callable[[], Awaitable[ClusterStats]]
) -> AsyncIterator[Tokens | Result]:
    """Run a call on the least loaded worker for ``model``; the last item is its Result.

    A call whose target dies is run again from the start, on another or on the restarted one; with its seed it comes to
    the same tokens, and those that were yielded before are not yielded again. Closing the iterator cancels the run.

    Raises:
        GenerationError: its targets died twice, or there is none.
        Exception: whatever ``generate`` raised, its traceback there among the notes.
    """
    call, assistant = await asyncio.to_thread(_detach_assistant, call)
    num_yielded = num_deaths = 0
    while True:
        actor = await _choose_target(model, stats)
        job_id = uuid.uuid4().hex
        num_seen = 0
        is_over = False
        try:
            stream = actor.generate.options(num_returns="streaming").remote(job_id, call, assistant)
            async for ref in stream:
                event = await ref
                match event:
                    case Failed(error=error):
                        is_over = True
                        raise error
                    case Tokens():
                        num_seen += 1
                        if num_seen > num_yielded:
                            num_yielded += 1
                            yield event
                    case Output(large=names):
                        is_over = True
                        # On a thread, as ``async for`` would wait for each field by fetching it.
                        *fields, end = await asyncio.to_thread(list, stream)
                        await end
                        refs = dict(zip(names, fields, strict=True))
                        yield Result(event, _fetcher(refs))
                        return
        except ray.exceptions.RayActorError as problem:
            is_over = True
            num_deaths += 1
            logger.warning("the target of a call died (%d of %d): %s", num_deaths, MAX_NUM_DEATHS, problem)
            if num_deaths >= MAX_NUM_DEATHS:
                raise GenerationError(f"its target died {num_deaths} times: {type(problem).__name__}") from None
            await asyncio.sleep(RETRY_DELAY)
        finally:
            if not is_over:
                actor.cancel_generate.remote(job_id)


_sent: "WeakKeyDictionary[Any, ray.ObjectRef[Any]]" = WeakKeyDictionary()  # local models in the object store


def _detach_assistant(
    call: "NativeCall | DeclaredCall",
) -> "tuple[NativeCall | DeclaredCall, ray.ObjectRef[Any] | None]":
    """Put a call's local assistant into the object store, once for all calls, and take it out of the call."""
    if isinstance(call, DeclaredCall):
        return call, None
    arguments = dict(call.arguments)
    assistant = arguments.pop("assistant_model", None)
    if assistant is None:
        return call, None
    if assistant not in _sent:
        _sent[assistant] = ray.put(assistant)
    return replace(call, arguments=arguments), _sent[assistant]


def _fetcher(refs: dict[str, Any]) -> Callable[[str], Any]:
    return lambda name: ray.get(refs[name])


async def _choose_target(model: str, stats: Callable[[], Awaitable[ClusterStats]]) -> Any:
    """The handle of the target with the fewest requests. Raises GenerationError where none comes up in time."""
    deadline = asyncio.get_running_loop().time() + MAX_WAIT
    while True:
        workers = [w for w in (await stats()).workers if w.is_alive and w.info.served_name == model]
        for worker in sorted(workers, key=lambda w: w.num_requests):
            try:
                return await asyncio.to_thread(ray.get_actor, worker.info.worker_id, NAMESPACE)
            except ValueError:
                continue  # it has just died
        if asyncio.get_running_loop().time() > deadline:
            raise GenerationError(f"no target for {model!r} has come up within {MAX_WAIT:g} s")
        await asyncio.sleep(RETRY_DELAY)
