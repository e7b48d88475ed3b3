"""One ``/v1/chat/completions`` request on its way: checked, planned as sequences, rendered whole or in chunks."""

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

from msgspec import UNSET, UnsetType

from serve_app.chat import ChatCompletionRequest
from serve_app.chat_answers import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChunkChoice,
)
from serve_app.choices import Choice, ChoiceDelta, DraftInfo, collect, finish_word
from serve_app.conversations import read_conversation
from serve_app.gateway import Gateway, check_ids, new_id
from serve_app.prompts import Prompt
from serve_app.response_format import check_form
from serve_app.sampling import check_limit, plan, read_seed
from serve_app.token_logprobs import ChatLogprobs, PromptLogprobs, TokenNames, chat_logprobs, prompt_logprobs
from serve_app.usage import Usage, count_usage


class ChatJob:
    """Knows the request, its prompt and how much came of it so far."""

    def __init__(
        self, gateway: Gateway, data: ChatCompletionRequest, prompt: Prompt, choices: Sequence[Choice], job_id: str
    ) -> None:
        self._gateway = gateway
        self._data = data
        self._prompt = prompt
        self._choices = choices
        self._id = job_id
        self._created = int(time.time())
        self._names = TokenNames(gateway.tokenizer, as_ids=data.return_tokens_as_token_ids)
        self._num_new_tokens = 0

    @classmethod
    async def prepare(cls, gateway: Gateway, data: ChatCompletionRequest) -> "ChatJob":
        """Check a request and plan its sequences. Raises RequestError and ApiError naming the field."""
        data.check_fields()
        card = await gateway.card(data.model)
        check_limit("n", data.num_choices, gateway.limits.max_n)
        check_limit("top_logprobs", data.top_logprobs, gateway.limits.max_logprobs)
        check_ids(data.stop_token_ids or (), card, "stop_token_ids")
        overrides = data.sampling_overrides(gateway.defaults, data.num_new_tokens or card.max_model_len)
        overrides |= {"logprobs": data.num_logprobs, "prompt_logprobs": data.prompt_logprobs}
        await check_form(overrides.get("grammar"), data.grammar_field)
        prompt = await read_conversation(gateway, card, data.conversation, num_kept=data.truncate_prompt_tokens)
        job_id = new_id("chatcmpl")
        choices = plan(
            job_id,
            [prompt],
            num_choices=data.num_choices,
            seed=read_seed(data.seed),
            defaults=gateway.defaults,
            overrides=overrides,
            limits=gateway.limits,
            card=card,
            rules=data.text_rules,
        )
        return cls(gateway, data, prompt, list(choices), job_id)

    async def answer(self) -> ChatCompletion:
        """Run to the end and return the whole answer."""
        runs = await collect(self._gateway.run(self._choices))
        self._num_new_tokens = sum(len(run.token_ids) for run in runs)
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._gateway.name,
            choices=[self._choice(run) for run in runs],
            usage=self._usage(),
            prompt_logprobs=self._prompt_logprobs(runs[0]),
        )

    async def chunks(self) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Run and yield chunks: a choice's role, what each step adds to its text, and at last why it ended."""
        options = self._data.stream_options
        is_counting = options is not None and bool(options.continuous_usage_stats)
        begun: set[int] = set()
        async with aclosing(self._gateway.run(self._choices)) as stream:
            async for delta in stream:
                self._num_new_tokens += len(delta.token_ids)
                between = None if self._data.include_usage else UNSET
                usage = self._usage() if is_counting else between
                for choice in self._parts(delta, is_first=delta.index not in begun):
                    yield self._chunk([choice], usage)
                begun.add(delta.index)
        if self._data.include_usage:
            yield self._chunk([], self._usage())

    def _parts(self, delta: ChoiceDelta, *, is_first: bool) -> Iterator[ChunkChoice]:
        """What one step says of a choice, in OpenAI's order."""
        if is_first:
            yield ChunkChoice(index=delta.index, delta=ChatDelta(role="assistant", content=""))
        logprobs = self._logprobs(delta)
        has_logprobs = bool(delta.token_ids) and logprobs is not None
        has_origins = self._data.return_token_ids and (bool(delta.token_ids) or delta.stats is not None)
        if delta.text or has_logprobs or has_origins:
            token_ids, info = self._origins(delta)
            yield ChunkChoice(
                index=delta.index,
                delta=ChatDelta(content=delta.text),
                logprobs=logprobs,
                token_ids=token_ids,
                slipstream=info,
            )
        if delta.finish_reason is not None:
            yield ChunkChoice(index=delta.index, delta=ChatDelta(), finish_reason=finish_word(delta.finish_reason))

    def _choice(self, run: ChoiceDelta) -> ChatChoice:
        token_ids, info = self._origins(run)
        return ChatChoice(
            index=run.index,
            message=AnswerMessage(content=run.text),
            logprobs=self._logprobs(run),
            finish_reason=finish_word(run.finish_reason),
            token_ids=token_ids,
            slipstream=info,
        )

    def _origins(self, delta: ChoiceDelta) -> tuple[tuple[int, ...] | UnsetType, DraftInfo | UnsetType]:
        """Ids and who wrote them, where asked for."""
        if not self._data.return_token_ids:
            return UNSET, UNSET
        return delta.token_ids, DraftInfo.of(delta, delta.segments)

    def _logprobs(self, delta: ChoiceDelta) -> ChatLogprobs | None:
        num_top = self._data.num_logprobs
        return None if num_top is None else chat_logprobs(self._names, delta.token_ids, delta.logprobs, num_top)

    def _prompt_logprobs(self, run: ChoiceDelta) -> PromptLogprobs | UnsetType:
        if self._data.prompt_logprobs is None or run.prompt_logprobs is None:
            return UNSET
        return prompt_logprobs(self._names, self._prompt.token_ids, run.prompt_logprobs, self._data.prompt_logprobs)

    def _usage(self) -> Usage:
        return count_usage([self._prompt], self._num_new_tokens)

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | UnsetType | None) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self._id, created=self._created, model=self._gateway.name, choices=choices, usage=usage
        )
