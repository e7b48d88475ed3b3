"""One ``/v1/completions`` request on its way: checked, planned as sequences, and rendered whole or in chunks."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Literal

from msgspec import UNSET, UnsetType

from actors.engine.errors import RequestError
from actors.engine.request import FinishReason
from serve_app.choices import Choice, ChoiceDelta, combine
from serve_app.completions import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionResponse,
    DraftInfo,
    Usage,
)
from serve_app.gateway import Gateway, new_id
from serve_app.prompts import Prompt, read_prompts
from serve_app.sampling import check_limit, draw_seed, plan


class CompletionJob:
    """Knows the request, its prompts and what was rendered of each choice so far."""

    def __init__(
        self,
        gateway: Gateway,
        data: CompletionRequest,
        prompts: Sequence[Prompt],
        choices: Sequence[Choice],
        job_id: str,
    ) -> None:
        self._gateway = gateway
        self._data = data
        self._prompts = prompts
        self._choices = choices
        self._id = job_id
        self._created = int(time.time())
        self._offsets: dict[int, int] = {}
        self._num_completion_tokens = 0

    @classmethod
    async def prepare(cls, gateway: Gateway, data: CompletionRequest) -> "CompletionJob":
        """Check a request and plan its sequences. Raises RequestError and ApiError naming the field."""
        card = await gateway.card(data.model)
        num_choices = data.n or 1
        check_limit("n", num_choices, gateway.limits.max_n)
        if data.echo and data.logprobs is not None:
            raise RequestError(
                "echo: log-probabilities of the prompt are not served; drop echo or logprobs", field="echo"
            )
        prompts = await read_prompts(gateway, card, data.prompt)
        job_id = new_id("cmpl")
        choices = plan(
            job_id,
            prompts,
            num_choices=num_choices,
            seed=draw_seed() if data.seed is None else data.seed,
            defaults=gateway.defaults,
            overrides=data.overrides(gateway.defaults),
            limits=gateway.limits,
            card=card,
            cut_strings=data.stop_strings,
        )
        return cls(gateway, data, prompts, list(choices), job_id)

    async def answer(self) -> CompletionResponse:
        """Run to the end and return the whole answer."""
        deltas: dict[int, list[ChoiceDelta]] = {choice.index: [] for choice in self._choices}
        async with aclosing(self._gateway.run(self._choices)) as stream:
            async for delta in stream:
                deltas[delta.index].append(delta)
        rendered = [self._render(combine(parts)) for parts in deltas.values()]
        return self._response(rendered, self._usage())

    async def chunks(self) -> AsyncGenerator[CompletionResponse, None]:
        """Run and yield a chunk for every step that brought something to show."""
        include_usage = self._data.stream_options is not None and self._data.stream_options.include_usage
        async with aclosing(self._gateway.run(self._choices)) as stream:
            async for delta in stream:
                choice = self._render(delta)
                if self._is_shown(choice):
                    yield self._response([choice], None if include_usage else UNSET)
        if include_usage:
            yield self._response([], self._usage())

    def _is_shown(self, choice: CompletionChoice) -> bool:
        has_extras = choice.logprobs is not None or self._data.return_token_ids
        return bool(choice.text) or choice.finish_reason is not None or has_extras

    def _render(self, delta: ChoiceDelta) -> CompletionChoice:
        """One choice, or one step of it; call it once for every delta, in order."""
        is_first = delta.index not in self._offsets
        prefix = self._prompt_text(delta.index) if self._data.echo and is_first else ""
        self._num_completion_tokens += len(delta.token_ids)
        offset = self._offsets.get(delta.index, 0)
        self._offsets[delta.index] = offset + len(prefix) + len(delta.text)
        segments = ((prefix, False), *delta.segments) if prefix else delta.segments
        return CompletionChoice(
            index=delta.index,
            text=prefix + delta.text,
            logprobs=self._logprobs(delta, offset) if self._data.logprobs is not None else None,
            finish_reason=_reason(delta.finish_reason),
            token_ids=delta.token_ids if self._data.return_token_ids else UNSET,
            slipstream=DraftInfo(num_drafted=delta.num_drafted, num_accepted=delta.num_accepted, segments=segments)
            if self._data.return_token_ids
            else UNSET,
        )

    def _logprobs(self, delta: ChoiceDelta, offset: int) -> CompletionLogprobs:
        tokens = [self._token_text(token_id) for token_id in delta.token_ids]
        offsets = [offset + sum(len(token) for token in tokens[:place]) for place in range(len(tokens))]
        top = [{self._token_text(token_id): value for token_id, value in entry.top} for entry in delta.logprobs]
        return CompletionLogprobs(
            tokens=tokens,
            token_logprobs=[entry.logprob for entry in delta.logprobs],
            top_logprobs=top if self._data.logprobs else None,
            text_offset=offsets,
        )

    def _token_text(self, token_id: int) -> str:
        return self._gateway.tokenizer.decode((token_id,), skip_special_tokens=False)

    def _prompt_text(self, index: int) -> str:
        prompt = self._prompts[index // (self._data.n or 1)]
        return prompt.text or self._gateway.tokenizer.decode(prompt.token_ids, skip_special_tokens=True)

    def _usage(self) -> Usage:
        num_prompt_tokens = sum(len(prompt.token_ids) for prompt in self._prompts)
        return Usage(
            prompt_tokens=num_prompt_tokens,
            completion_tokens=self._num_completion_tokens,
            total_tokens=num_prompt_tokens + self._num_completion_tokens,
        )

    def _response(self, choices: list[CompletionChoice], usage: Usage | UnsetType | None) -> CompletionResponse:
        return CompletionResponse(
            id=self._id, created=self._created, model=self._gateway.name, choices=choices, usage=usage
        )


def _reason(reason: FinishReason | None) -> Literal["stop", "length", "abort"] | None:
    """OpenAI's word for it; a time limit is a length to them."""
    match reason:
        case None:
            return None
        case FinishReason.STOP:
            return "stop"
        case FinishReason.LENGTH | FinishReason.TIME:
            return "length"
        case _:
            return "abort"
