"""One ``/v1/completions`` request on its way: checked, planned as sequences, and rendered whole or in chunks."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from msgspec import UNSET, UnsetType

from actors.engine.request import FinishReason, TokenLogprobs
from cluster.detokenizer import Detokenizer
from serve_app.choices import Choice, ChoiceDelta, DraftInfo, collect, finish_word
from serve_app.completions import CompletionChoice, CompletionRequest, CompletionResponse
from serve_app.gateway import Gateway, check_ids, new_id
from serve_app.prompts import Prompt, read_prompts
from serve_app.response_format import check_form
from serve_app.sampling import check_limit, plan, read_seed
from serve_app.token_logprobs import (
    CompletionLogprobs,
    PromptLogprobs,
    TokenNames,
    completion_logprobs,
    prompt_logprobs,
)
from serve_app.usage import Usage, count_usage


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
        self._names = TokenNames(gateway.tokenizer, as_ids=data.return_tokens_as_token_ids)
        self._num_new_tokens = 0
        self._echoes = [prompt.text or self._decode(prompt.token_ids) for prompt in prompts] if data.echo else []

    @classmethod
    async def prepare(cls, gateway: Gateway, data: CompletionRequest) -> "CompletionJob":
        """Check a request and plan its sequences. Raises RequestError and ApiError naming the field."""
        data.check_fields()
        gateway = gateway.of(data.model)
        card = await gateway.card()
        check_limit("n", data.num_choices, gateway.limits.max_n)
        check_limit("best_of", data.best_of, gateway.limits.max_n)
        check_ids(data.stop_token_ids or (), card, "stop_token_ids")
        overrides = data.sampling_overrides(gateway.defaults, max(1, data.num_new_tokens))
        overrides |= {"logprobs": data.num_logprobs, "prompt_logprobs": data.num_prompt_logprobs}
        await check_form(overrides.get("grammar"), data.grammar_field)
        prompts = await read_prompts(
            gateway,
            card,
            data.prompt,
            add_special_tokens=data.add_special_tokens,
            num_kept=data.truncate_prompt_tokens,
        )
        job_id = new_id("cmpl")
        choices = plan(
            job_id,
            prompts,
            num_choices=data.num_runs,
            seed=read_seed(data.seed),
            defaults=gateway.defaults,
            overrides=overrides,
            limits=gateway.limits,
            card=card,
            rules=data.text_rules,
        )
        return cls(gateway, data, prompts, list(choices), job_id)

    async def answer(self) -> CompletionResponse:
        """Run to the end and return the whole answer."""
        runs = await collect(self._gateway.run(self._choices))
        self._num_new_tokens = sum(len(self._shown(run).token_ids) for run in runs)
        best = self._best(runs)
        rendered = [
            msgspec.structs.replace(self._render(run, is_first=True), index=index) for index, run in enumerate(best)
        ]
        return self._response(rendered, self._usage())

    async def chunks(self) -> AsyncGenerator[CompletionResponse, None]:
        """Run and yield a chunk for every step that brought something to show."""
        options = self._data.stream_options
        is_counting = options is not None and bool(options.continuous_usage_stats)
        begun: set[int] = set()
        async with aclosing(self._gateway.run(self._choices)) as stream:
            async for delta in stream:
                self._num_new_tokens += len(self._shown(delta).token_ids)
                choice = self._render(delta, is_first=delta.index not in begun)
                begun.add(delta.index)
                if self._is_shown(choice):
                    between = None if self._data.include_usage else UNSET
                    yield self._response([choice], self._usage() if is_counting else between)
        if self._data.include_usage:
            yield self._response([], self._usage())

    def _best(self, runs: Sequence[ChoiceDelta]) -> list[ChoiceDelta]:
        """The ``n`` runs behind each prompt whose tokens are most probable on average, in the order of their index."""
        num_runs, num_choices = self._data.num_runs, self._data.num_choices
        best: list[ChoiceDelta] = []
        for first in range(0, len(runs), num_runs):
            of_prompt = runs[first : first + num_runs]
            if num_runs > num_choices:
                of_prompt = sorted(of_prompt, key=lambda run: _mean(run.logprobs), reverse=True)[:num_choices]
            best += of_prompt
        return best

    def _is_shown(self, choice: CompletionChoice) -> bool:
        has_extras = choice.logprobs is not None or self._data.return_token_ids
        return bool(choice.text) or choice.finish_reason is not None or has_extras

    def _shown(self, delta: ChoiceDelta) -> ChoiceDelta:
        """The delta, without the token that was only generated because nothing less can be."""
        if self._data.num_new_tokens:
            return delta
        return ChoiceDelta(index=delta.index, prompt_logprobs=delta.prompt_logprobs, finish_reason=FinishReason.LENGTH)

    def _render(self, delta: ChoiceDelta, *, is_first: bool) -> CompletionChoice:
        """One choice, or one step of it; ``is_first`` says that nothing of it was rendered before."""
        delta = self._shown(delta)
        place = delta.index // self._data.num_runs
        prompt, echo = self._prompts[place], self._echoes[place] if self._data.echo else ""
        segments = ((echo, False), *delta.segments) if echo and is_first else delta.segments
        return CompletionChoice(
            index=delta.index,
            text="".join(text for text, _ in segments),
            logprobs=self._logprobs(delta, prompt if is_first and self._data.echo else None, len(echo)),
            finish_reason=finish_word(delta.finish_reason),
            token_ids=delta.token_ids if self._data.return_token_ids else UNSET,
            prompt_logprobs=self._prompt_logprobs(delta, prompt),
            slipstream=DraftInfo.of(delta, segments) if self._data.return_token_ids else UNSET,
        )

    def _logprobs(self, delta: ChoiceDelta, echoed: Prompt | None, begin: int) -> CompletionLogprobs | None:
        """Of the new tokens, whose text begins at ``begin``, and before them of the echoed prompt's, if any."""
        if self._data.logprobs is None:
            return None
        token_ids: list[int] = []
        entries: list[TokenLogprobs | None] = []
        offsets: list[int] = []
        if echoed is not None:
            token_ids += echoed.token_ids
            entries += [None, *(delta.prompt_logprobs or ())]
            offsets += self._prompt_offsets(echoed)
        token_ids += delta.token_ids
        entries += delta.logprobs
        offsets += [begin + offset for offset in delta.offsets]
        return completion_logprobs(self._names, token_ids, entries, offsets, self._data.logprobs)

    def _prompt_logprobs(self, delta: ChoiceDelta, prompt: Prompt) -> PromptLogprobs | UnsetType:
        if self._data.prompt_logprobs is None or delta.prompt_logprobs is None:
            return UNSET
        return prompt_logprobs(self._names, prompt.token_ids, delta.prompt_logprobs, self._data.prompt_logprobs)

    def _prompt_offsets(self, prompt: Prompt) -> list[int]:
        detokenizer = Detokenizer(self._decode)
        offsets: list[int] = []
        for token_id in prompt.token_ids:
            offsets.append(detokenizer.num_chars)
            detokenizer.push(token_id)
        return offsets

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._gateway.tokenizer.decode(token_ids, skip_special_tokens=self._data.skip_special_tokens)

    def _usage(self) -> Usage:
        return count_usage(self._prompts, self._num_new_tokens)

    def _response(self, choices: list[CompletionChoice], usage: Usage | UnsetType | None) -> CompletionResponse:
        return CompletionResponse(
            id=self._id, created=self._created, model=self._gateway.name, choices=choices, usage=usage
        )


def _mean(entries: Sequence[TokenLogprobs]) -> float:
    """Mean log-probability by token."""
    return sum(entry.logprob for entry in entries) / max(1, len(entries))
