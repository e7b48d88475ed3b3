"""One HTTP request is one or more sequences: how each becomes text, and how their streams become one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from actors.engine.errors import GenerationError, RequestError
from actors.engine.params import GenerationParams
from actors.engine.request import Beam, Delta, FinishReason, Request, TokenLogprobs
from actors.request_stats import RequestStats, RequestTally
from cluster.generation_client import GenerationClient
from serve_app.detached import spawn
from serve_app.errors import timed_out
from serve_app.text import Segment, TextRules, TextStream, join

T = TypeVar("T")


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence to run: the ``index``-th of the answer. ``rules`` shape its text; the request's stops only end it."""

    index: int
    request: Request
    rules: TextRules = TextRules()

    def is_stop_token(self, token_id: int) -> bool:
        """Whether a token ends the sequence."""
        params = self.request.params
        return token_id in params.eos_token_id and not params.ignore_eos


class ChoiceDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What one step brought one choice.

    Attributes:
        index: which choice.
        token_ids: its new tokens; the first ``num_accepted`` were drafted.
        segments: the text that they complete, by origin. It can lag behind the tokens, never the other way round.
        offsets: for each token, where in the text of the choice it begins.
        logprobs: an entry a token, where asked for.
        prompt_logprobs: an entry for every token of the prompt but the first, where asked for; in the first delta.
        beams: what a search has found, best first; in its last delta.
        finish_reason: set in the last delta.
        stats: what drafting did for the sequence; in the last delta.
    """

    index: int
    token_ids: tuple[int, ...] = ()
    segments: tuple[Segment, ...] = ()
    offsets: tuple[int, ...] = ()
    num_drafted: int = 0
    num_accepted: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    beams: tuple[Beam, ...] = ()
    finish_reason: FinishReason | None = None
    stats: RequestStats | None = None

    @property
    def text(self) -> str:
        """The new text as one string."""
        return "".join(text for text, _ in self.segments)


class DraftInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who wrote what. ``segments`` are (text, whether a drafted token wrote it), in order, the whole of the text.

    ``text_offset`` says for each token where in the answer, an echoed prompt apart, its text begins. ``stats`` comes at
    the end of an answer: what drafting did for it.
    """

    num_drafted: int
    num_accepted: int
    segments: tuple[Segment, ...]
    text_offset: tuple[int, ...] = ()
    stats: RequestStats | UnsetType = UNSET

    @classmethod
    def of(cls, delta: ChoiceDelta, segments: tuple[Segment, ...]) -> "DraftInfo":
        """What a delta says of it, with the ``segments`` that are shown."""
        return cls(
            num_drafted=delta.num_drafted,
            num_accepted=delta.num_accepted,
            segments=segments,
            text_offset=delta.offsets,
            stats=UNSET if delta.stats is None else delta.stats,
        )


FinishWord = Literal["stop", "length", "abort"]


def finish_word(reason: FinishReason | None) -> FinishWord | None:
    """OpenAI's word for why a sequence ended; a time limit is a length to them."""
    match reason:
        case None:
            return None
        case FinishReason.STOP:
            return "stop"
        case FinishReason.LENGTH | FinishReason.TIME:
            return "length"
        case _:
            return "abort"


async def run_choice(
    client: GenerationClient, model: str, choice: Choice, text: TextStream
) -> AsyncGenerator[ChoiceDelta, None]:
    """Run one sequence to its end, or to its first stop string.

    Raises GenerationError where it fails, RequestError where the model has no log-probabilities to give.
    """
    tally = RequestTally()
    async with aclosing(closing_generator(client.generate(choice.request, model))) as deltas:
        async for delta in deltas:
            if delta.finish_reason is FinishReason.ERROR:
                raise GenerationError(delta.error or "the sequence failed")
            _check_logprobs(choice.request.params, delta)
            tally.add(delta)
            is_end = delta.finish_reason is FinishReason.STOP and bool(delta.token_ids)
            is_last_hidden = is_end and not choice.rules.include_stop and choice.is_stop_token(delta.token_ids[-1])
            segments = text.push(delta.token_ids, delta.num_accepted, is_last_hidden=is_last_hidden)
            if delta.finish_reason is not None:
                segments += text.finish()
            finish_reason = FinishReason.STOP if text.is_stopped else delta.finish_reason
            yield ChoiceDelta(
                index=choice.index,
                token_ids=delta.token_ids,
                segments=tuple(segments),
                offsets=tuple(text.offsets[len(text.offsets) - len(delta.token_ids) :]),
                num_drafted=delta.num_drafted,
                num_accepted=delta.num_accepted,
                logprobs=delta.logprobs or (),
                prompt_logprobs=delta.prompt_logprobs,
                beams=delta.beams or (),
                finish_reason=finish_reason,
                stats=None if finish_reason is None else tally.stats(),
            )
            if finish_reason is not None:
                return
    raise GenerationError("the stream of tokens ended before the sequence did")


def _check_logprobs(params: GenerationParams, delta: Delta) -> None:
    """Raises RequestError where log-probabilities were asked for, but the engine of this model has none."""
    if params.logprobs is not None and len(delta.logprobs or ()) != len(delta.token_ids):
        raise RequestError("logprobs: this model's engine gives none", field="logprobs")
    is_first = delta.start == 0 and bool(delta.token_ids)
    if params.prompt_logprobs is not None and is_first and delta.prompt_logprobs is None:
        raise RequestError("prompt_logprobs: this model's engine gives none for prompts", field="prompt_logprobs")


async def merge(streams: Sequence[AsyncGenerator[T, None]], timeout_seconds: float) -> AsyncGenerator[T, None]:
    """Interleave streams as their items come. The first failure, a timeout or closing this one ends them all."""
    queue: asyncio.Queue[T | Exception | None] = asyncio.Queue()

    async def pump(stream: AsyncGenerator[T, None]) -> None:
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


async def closing_generator(items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """Give any iterator an ``aclose`` that reaches it."""
    try:
        async for item in items:
            yield item
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def collect(stream: AsyncGenerator[ChoiceDelta, None]) -> list[ChoiceDelta]:
    """Read a merged stream to its end: each choice as a single delta, by index."""
    deltas: dict[int, list[ChoiceDelta]] = {}
    async with aclosing(stream):
        async for delta in stream:
            deltas.setdefault(delta.index, []).append(delta)
    return [combine(deltas[index]) for index in sorted(deltas)]


def combine(deltas: Sequence[ChoiceDelta]) -> ChoiceDelta:
    """All of one choice as a single delta: lists joined, counts summed (``num_accepted`` is then a total)."""
    return ChoiceDelta(
        index=deltas[0].index,
        token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
        segments=tuple(join(segment for delta in deltas for segment in delta.segments)),
        offsets=tuple(offset for delta in deltas for offset in delta.offsets),
        num_drafted=sum(delta.num_drafted for delta in deltas),
        num_accepted=sum(delta.num_accepted for delta in deltas),
        logprobs=tuple(entry for delta in deltas for entry in delta.logprobs),
        prompt_logprobs=deltas[0].prompt_logprobs,
        beams=deltas[-1].beams,
        finish_reason=deltas[-1].finish_reason,
        stats=deltas[-1].stats,
    )
