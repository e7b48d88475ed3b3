"""One HTTP request is one or more sequences: how each becomes text, and how their streams become one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import msgspec

from actors.engine.errors import GenerationError
from actors.engine.request import Delta, FinishReason, Request, TokenLogprobs
from cluster.client import GenerationClient
from serve_app.detached import spawn
from serve_app.errors import timed_out
from serve_app.text import Segment, TextStream, join


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence to run: the ``index``-th of the answer. ``stop_strings`` cut its text; the request's only end it."""

    index: int
    request: Request
    stop_strings: tuple[str, ...] = ()


class ChoiceDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What one step brought one choice.

    Attributes:
        index: which choice.
        token_ids: its new tokens; the first ``num_accepted`` were drafted.
        segments: the text that they complete, by origin. It can lag behind the tokens, never the other way round.
        logprobs: an entry a token, where asked for.
        finish_reason: set in the last delta.
    """

    index: int
    token_ids: tuple[int, ...] = ()
    segments: tuple[Segment, ...] = ()
    num_drafted: int = 0
    num_accepted: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None

    @property
    def text(self) -> str:
        """The new text as one string."""
        return "".join(text for text, _ in self.segments)


async def run_choice(
    client: GenerationClient, model: str, choice: Choice, text: TextStream
) -> AsyncGenerator[ChoiceDelta, None]:
    """Run one sequence to its end, or to its first stop string. Raises GenerationError where it fails."""
    async with aclosing(_as_generator(client.generate(choice.request, model))) as deltas:
        async for delta in deltas:
            if delta.finish_reason is FinishReason.ERROR:
                raise GenerationError(delta.error or "the sequence failed")
            segments = text.push(delta.token_ids, delta.num_accepted)
            if delta.finish_reason is not None:
                segments += text.finish()
            finish_reason = FinishReason.STOP if text.is_stopped else delta.finish_reason
            yield ChoiceDelta(
                index=choice.index,
                token_ids=delta.token_ids,
                segments=tuple(segments),
                num_drafted=delta.num_drafted,
                num_accepted=delta.num_accepted,
                logprobs=delta.logprobs or (),
                finish_reason=finish_reason,
            )
            if finish_reason is not None:
                return
    raise GenerationError("the stream of tokens ended before the sequence did")


async def merge(
    streams: Sequence[AsyncGenerator[ChoiceDelta, None]], timeout_seconds: float
) -> AsyncGenerator[ChoiceDelta, None]:
    """Interleave streams as their items come. The first failure, a timeout or closing this one ends them all."""
    queue: asyncio.Queue[ChoiceDelta | Exception | None] = asyncio.Queue()

    async def pump(stream: AsyncGenerator[ChoiceDelta, None]) -> None:
        try:
            async with asyncio.timeout(timeout_seconds), aclosing(stream):
                async for item in stream:
                    queue.put_nowait(item)
            queue.put_nowait(None)
        except TimeoutError:
            queue.put_nowait(timed_out(timeout_seconds))
        except Exception as error:
            queue.put_nowait(error)

    tasks = [spawn(pump(stream)) for stream in streams]
    num_running = len(tasks)
    try:
        while num_running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _as_generator(deltas: AsyncIterator[Delta]) -> AsyncGenerator[Delta, None]:
    """Give any iterator an ``aclose`` that reaches it."""
    try:
        async for delta in deltas:
            yield delta
    finally:
        close = getattr(deltas, "aclose", None)
        if close is not None:
            await close()


def combine(deltas: Sequence[ChoiceDelta]) -> ChoiceDelta:
    """All of one choice as a single delta: lists joined, counts summed (``num_accepted`` is then a total)."""
    return ChoiceDelta(
        index=deltas[0].index,
        token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
        segments=tuple(join(segment for delta in deltas for segment in delta.segments)),
        num_drafted=sum(delta.num_drafted for delta in deltas),
        num_accepted=sum(delta.num_accepted for delta in deltas),
        logprobs=tuple(entry for delta in deltas for entry in delta.logprobs),
        finish_reason=deltas[-1].finish_reason,
    )
