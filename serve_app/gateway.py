"""What all routes share: the cluster behind the door, its tokenizer, its bounds, and the measuring of requests."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from actors.engine.errors import RequestError
from actors.engine.request import FinishReason
from actors.status import ClusterStats
from cluster.client import GenerationClient
from cluster.config import LimitsConfig
from serve_app.choices import Choice, ChoiceDelta, merge, run_choice
from serve_app.detached import spawn
from serve_app.errors import ApiError, not_ready
from serve_app.metrics import Metrics
from serve_app.text import TextStream
from serve_app.tokenizer import Tokenizer

STATS_SECONDS = 1.0
MAX_NUM_INLINE_CHARS = 16_384


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """The served model as a request must know it."""

    name: str
    max_model_len: int
    vocab_size: int


class Gateway:
    """Holds one replica's view of the cluster. Used from one event loop.

    Args:
        name: the model name that clients ask for; also the pool that requests go to.
        defaults: the model's generation defaults.
    """

    def __init__(
        self,
        client: GenerationClient,
        tokenizer: Tokenizer,
        *,
        name: str,
        limits: LimitsConfig,
        defaults: Mapping[str, Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.limits = limits
        self.defaults = dict(defaults)
        self.tokenizer = tokenizer
        self.metrics = Metrics(name)
        self.created = int(time.time())
        self._client = client
        self._clock = clock
        self._stats: ClusterStats | None = None
        self._stats_time = 0.0

    async def stats(self, max_age: float = 0.0) -> ClusterStats:
        """The cluster's state, at most ``max_age`` seconds old. Raises ApiError 503 where no router answers."""
        now = self._clock()
        if self._stats is None or now - self._stats_time >= max_age:
            try:
                self._stats = await asyncio.shield(spawn(self._client.stats()))
            except Exception as error:
                raise not_ready() from error
            self._stats_time = now
        return self._stats

    async def card(self, model: str | None = None) -> ModelCard:
        """The served model. Raises RequestError for another model's name, ApiError 503 where no target is ready."""
        if model is not None and model != self.name:
            raise RequestError(f"model: {model!r} is not served here, only {self.name!r}", field="model")
        card = self._card(await self.stats(STATS_SECONDS)) or self._card(await self.stats())
        if card is None:
            raise not_ready()
        return card

    def _card(self, stats: ClusterStats) -> ModelCard | None:
        """The bounds that hold on every target that lives, None where none does."""
        infos = [worker.info for worker in stats.workers if worker.is_alive and worker.info.role == "target"]
        infos = [info for info in infos if info.pool == self.name]
        if not infos:
            return None
        return ModelCard(
            name=self.name,
            max_model_len=min(info.max_model_len for info in infos),
            vocab_size=min(info.vocab_size for info in infos),
        )

    async def encode(self, text: str) -> list[int]:
        """Tokenize a prompt, a long one beside the event loop."""
        if len(text) <= MAX_NUM_INLINE_CHARS:
            return self.tokenizer.encode(text)
        return await asyncio.to_thread(self.tokenizer.encode, text)

    async def run(self, choices: Sequence[Choice]) -> AsyncGenerator[ChoiceDelta, None]:
        """Run sequences together; closing the generator takes all of them back. Measures as it goes."""
        begin = self._clock()
        last: dict[int, float] = {}
        streams = [run_choice(self._client, self.name, choice, self._text(choice)) for choice in choices]
        unfinished = {choice.index for choice in choices}
        outcome = FinishReason.ABORT
        try:
            async with aclosing(merge(streams, self.limits.request_timeout)) as deltas:
                async for delta in deltas:
                    self._measure(delta, begin, last)
                    if delta.finish_reason is not None:
                        unfinished.discard(delta.index)
                    yield delta
            self.metrics.request_seconds.observe(self._clock() - begin)
        except Exception:
            outcome = FinishReason.ERROR
            raise
        finally:
            for _ in unfinished:
                self.metrics.count_finished(outcome.value)

    async def close(self) -> None:
        """Leave the cluster."""
        await self._client.close()

    def _text(self, choice: Choice) -> TextStream:
        return TextStream(self.tokenizer, choice.request.prompt_token_ids, choice.stop_strings)

    def _measure(self, delta: ChoiceDelta, begin: float, last: dict[int, float]) -> None:
        now = self._clock()
        if not last and delta.token_ids:
            self.metrics.first_token_seconds.observe(now - begin)
        elif delta.index in last and delta.token_ids:
            self.metrics.inter_token_seconds.observe((now - last[delta.index]) / len(delta.token_ids))
        last[delta.index] = now
        if delta.finish_reason is not None:
            self.metrics.count_finished(delta.finish_reason.value)


def new_id(prefix: str) -> str:
    """An id that is unique in the cluster."""
    return f"{prefix}-{uuid.uuid4().hex}"


def check_prompt(token_ids: Sequence[int], card: ModelCard, field: str = "prompt") -> tuple[int, ...]:
    """The prompt as a request takes it. Raises RequestError: empty, over the context, or with unknown ids."""
    if not token_ids:
        raise RequestError(f"{field}: at least one token is needed, but it is empty", field=field, limit="1")
    limit = card.max_model_len - 1
    if len(token_ids) > limit:
        raise ApiError(
            400,
            f"{field}: {len(token_ids)} tokens, but the limit is {limit} "
            f"(the context of {card.max_model_len} less one for the answer)",
            param=field,
            code="context_length_exceeded",
        )
    check_ids(token_ids, card, field)
    return tuple(token_ids)


def check_ids(token_ids: Sequence[int], card: ModelCard, field: str) -> None:
    """Raises RequestError where an id lies outside the vocabulary."""
    for token_id in token_ids:
        if not 0 <= token_id < card.vocab_size:
            raise RequestError(
                f"{field}: token id {token_id} is not in the vocabulary (0 to {card.vocab_size - 1})",
                field=field,
                limit=str(card.vocab_size - 1),
            )
