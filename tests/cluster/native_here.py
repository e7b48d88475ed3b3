"""A native run driven in this process, event by event, as the actor and its client do it over Ray."""

import asyncio
from collections.abc import AsyncIterator

from actors.engine.declared_call import DeclaredCall
from actors.engine.native_generation import NativeCall, NativeModel
from actors.native_client import Result
from actors.native_job import Failed, Finished, NativeJob, Tokens, split_output


async def run_here(native: NativeModel, call: NativeCall | DeclaredCall) -> AsyncIterator[Tokens | Result]:
    """Run a call to its end and yield what came of it. Raises what ``generate`` raised."""
    job = NativeJob("here", call)
    run = native.start(call, job)
    while native.step(run):
        await asyncio.sleep(0)
    for event in job.read(is_alive=lambda: False):
        match event:
            case Tokens():
                yield event
            case Failed(error=error):
                raise error
            case Finished(output=output):
                head, values = split_output(output)
                yield Result(head, dict(zip(head.large, values, strict=True)).__getitem__)
