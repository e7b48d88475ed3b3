"""What all routes share: the cluster behind the door, its tokenizer, its bounds, and the measuring of requests."""

import asyncio
import contextlib
import copy
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from actors.engine.declared_call import DeclaredCall
from actors.engine.errors import RequestError
from actors.engine.request import FinishReason
from actors.native_job import Tokens
from actors.status import ClusterStats
from cluster.config import LimitsConfig
from cluster.generation_client import ModelClient
from serve_app.admission import Admission
from serve_app.chat_template import ChatTemplate
from serve_app.choices import Choice, ChoiceDelta, merge, run_choice
from serve_app.cluster_account import ClusterAccount
from serve_app.cluster_view import STALE_SECONDS, Capacity, ClusterView, ModelCard
from serve_app.errors import ApiError
from serve_app.metrics import Metrics
from serve_app.native_calls import Fields, run_declared
from serve_app.text import TextStream
from serve_app.tokenizer import Tokenizer

MAX_NUM_INLINE_CHARS = 16_384
NATIVE_OUTCOME = "native"  # in metrics: a sequence of a call of transformers' own code, however it ended
END_SLACK = 5.0  # seconds behind its deadline at which a target ends a sequence that nobody has taken back


class Gateway:
    """Holds one replica's view of the cluster and one of its models. Used from one event loop.

    Args:
        name: the model name that clients ask for, and that requests go to.
        defaults: the model's generation defaults.
        capacity: sequences that the cluster takes.
        chat_template: the model's, None where it has none.

    Attributes:
        admission: what this replica has in hand.
    """

    def __init__(
        self,
        client: ModelClient,
        tokenizer: Tokenizer,
        *,
        name: str,
        limits: LimitsConfig,
        defaults: Mapping[str, Any],
        capacity: Capacity | None = None,
        chat_template: ChatTemplate | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.limits = limits
        self.defaults = dict(defaults)
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.metrics = Metrics(name)
        self.created = int(time.time())
        self.admission = Admission(limits.max_num_requests, limits.max_num_native_requests, lambda: self._view.room())
        account = ClusterAccount(client, lambda: self.admission.num_sequences, clock)
        self._view = ClusterView(account, name, capacity or Capacity(), limits.max_num_prompt_tokens)
        self._client = client
        self._clock = clock
        self._models = {name: self}

    def serve(
        self, name: str, tokenizer: Tokenizer, *, defaults: Mapping[str, Any], chat_template: ChatTemplate | None
    ) -> None:
        """Serve another of the cluster's models, one of its drafts, beside the first."""
        other = copy.copy(self)
        other.name, other.tokenizer = name, tokenizer
        other.defaults, other.chat_template = dict(defaults), chat_template
        other.metrics, other._view = self.metrics.of(name), self._view.of(name)
        self._models[name] = other

    def of(self, model: str | None) -> "Gateway":
        """The gateway of the model that a request asks for. Raises RequestError where there is none of that name."""
        if model is None or model == self.name:
            return self
        if model not in self._models:
            names = ", ".join(map(repr, self._models))
            raise RequestError(
                f"model: {model!r} is not served here, only {names}", field="model", limit=", ".join(self._models)
            )
        other = copy.copy(self._models[model])
        other.limits = self.limits
        return other

    def with_timeout(self, seconds: float) -> "Gateway":
        """The same gateway for a request that ends after ``seconds``, or with the server's limit if that is sooner."""
        own = copy.copy(self)
        own.limits = msgspec.structs.replace(self.limits, request_timeout=min(seconds, self.limits.request_timeout))
        return own

    async def stats(self, max_age: float = 0.0) -> ClusterStats:
        """The cluster's state, at most ``max_age`` seconds old. Raises ApiError 503 where no router answers."""
        return await self._view.stats(max_age)

    async def card(self, max_age: float = STALE_SECONDS) -> ModelCard:
        """The served model. Raises ApiError 503 where no worker for it is ready."""
        return await self._view.card(max_age)

    async def cards(self) -> list[ModelCard]:
        """All models that can be asked for now."""
        found = []
        for gateway in self._models.values():
            with contextlib.suppress(ApiError):
                found.append(await gateway.card())
        return found

    async def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Tokenize a prompt, a long one beside the event loop."""
        if len(text) <= MAX_NUM_INLINE_CHARS:
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens=add_special_tokens)

    async def run(self, choices: Sequence[Choice]) -> AsyncGenerator[ChoiceDelta, None]:
        """Run sequences together; closing the generator takes all of them back. Measures as it goes.

        Raises OverloadedError where the cluster has no room for all of them.
        """
        begin = self._clock()
        last: dict[int, float] = {}
        timeout = self.limits.request_timeout
        unfinished = {choice.index for choice in choices}
        outcome = FinishReason.ABORT
        try:
            with self.admission.sequences(len(choices)):
                streams = [
                    run_choice(self._client, self.name, _ending(choice, timeout + END_SLACK), self._text(choice))
                    for choice in choices
                ]
                async with aclosing(merge(streams, timeout)) as deltas:
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

    async def run_call(self, call: DeclaredCall, *, num_sequences: int) -> AsyncGenerator[Tokens | Fields, None]:
        """Run a call of transformers' own code; the last item is its output. Closing the generator ends it.

        Raises OverloadedError where there is no room for it.
        """
        begin = self._clock()
        outcome = FinishReason.ABORT.value
        try:
            with self.admission.call(num_sequences):
                stream = run_declared(self._client, self.name, call)
                async with aclosing(merge([stream], self.limits.request_timeout)) as items:
                    async for item in items:
                        yield item
            self.metrics.request_seconds.observe(self._clock() - begin)
            outcome = NATIVE_OUTCOME
        except Exception:
            outcome = FinishReason.ERROR.value
            raise
        finally:
            for _ in range(num_sequences):
                self.metrics.count_finished(outcome)

    async def close(self) -> None:
        """Leave the cluster."""
        await self._client.close()

    def _text(self, choice: Choice) -> TextStream:
        return TextStream(self.tokenizer, choice.request.prompt_token_ids, choice.rules)

    def _measure(self, delta: ChoiceDelta, begin: float, last: dict[int, float]) -> None:
        now = self._clock()
        if not last and delta.token_ids:
            self.metrics.first_token_seconds.observe(now - begin)
        elif delta.index in last and delta.token_ids:
            self.metrics.inter_token_seconds.observe((now - last[delta.index]) / len(delta.token_ids))
        last[delta.index] = now
        if delta.finish_reason is not None:
            self.metrics.count_finished(delta.finish_reason.value)


def _ending(choice: Choice, seconds: float) -> Choice:
    """The choice with an end in its target's own hands, for the case that taking it back gets lost on the way."""
    request = choice.request
    max_time = min(seconds, request.params.max_time or seconds)
    params = msgspec.structs.replace(request.params, max_time=max_time)
    return msgspec.structs.replace(choice, request=msgspec.structs.replace(request, params=params))


def new_id(prefix: str) -> str:
    """An id that is unique in the cluster."""
    return f"{prefix}-{uuid.uuid4().hex}"


def check_prompt(token_ids: Sequence[int], card: ModelCard, field: str = "prompt") -> tuple[int, ...]:
    """The prompt as a request takes it. Raises RequestError: empty, over the context, or with unknown ids."""
    if not token_ids:
        raise RequestError(f"{field}: at least one token is needed, but it is empty", field=field, limit="1")
    limit = card.max_num_prompt_tokens
    if len(token_ids) > limit:
        is_context = limit == card.max_model_len - 1
        why = f" (the context of {card.max_model_len} less one for the answer)" if is_context else ""
        raise ApiError(
            400,
            f"{field}: {len(token_ids)} tokens, but the limit is {limit}{why}",
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
