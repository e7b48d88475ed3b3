"""One ``/generate`` request on its way."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from msgspec import UNSET

from actors.engine.errors import RequestError
from serve_app.choices import Choice, ChoiceDelta, collect
from serve_app.gateway import Gateway, new_id
from serve_app.generations import PARAM_NAMES, GeneratedSequence, GenerateRequest, GenerateResponse
from serve_app.prompts import Prompt, read_prompts
from serve_app.response_format import check_form
from serve_app.sampling import check_limit, draw_seed, plan
from serve_app.text import TextRules
from serve_app.usage import count_usage


class GenerationJob:
    """Knows the request, its prompts and its sequences."""

    def __init__(
        self, gateway: Gateway, prompts: Sequence[Prompt], choices: Sequence[Choice], job_id: str, seed: int
    ) -> None:
        self._gateway = gateway
        self._prompts = prompts
        self._choices = {choice.index: choice for choice in choices}
        self._id = job_id
        self._seed = seed

    @classmethod
    async def prepare(cls, gateway: Gateway, data: GenerateRequest, given: frozenset[str]) -> "GenerationJob":
        """Check a request and plan its sequences; ``given`` are the names that its body spelt out.

        Raises RequestError and ApiError naming the field.
        """
        gateway = gateway.of(data.model)
        card = await gateway.card()
        check_limit("num_return_sequences", data.num_return_sequences, gateway.limits.max_n)
        check_limit("num_beams", data.num_beams, 1)  # its answer has no place for beams
        if (data.prompt is None) == (data.input_ids is None):
            raise RequestError("prompt: give either prompt or input_ids, one of them", field="prompt")
        if data.prompt is not None:
            prompts = await read_prompts(gateway, card, data.prompt, "prompt")
        else:
            prompts = await read_prompts(gateway, card, data.input_ids or (), "input_ids")
        overrides: dict[str, Any] = {name: getattr(data, name) for name in PARAM_NAMES & given}
        await check_form(overrides.get("grammar"), "grammar")
        seed = overrides.pop("seed", None)
        seed = draw_seed() if seed is None else seed
        job_id = new_id("gen")
        choices = plan(
            job_id,
            prompts,
            num_choices=data.num_return_sequences,
            seed=seed,
            defaults=gateway.defaults,
            overrides=overrides,
            limits=gateway.limits,
            card=card,
            rules=TextRules(include_stop=True),
        )
        return cls(gateway, prompts, list(choices), job_id, seed)

    async def answer(self) -> GenerateResponse:
        """Run to the end and return the whole answer."""
        runs = await collect(self._gateway.run(list(self._choices.values())))
        sequences = [self._render(run) for run in runs]
        return GenerateResponse(
            id=self._id,
            model=self._gateway.name,
            seed=self._seed,
            sequences=sequences,
            usage=count_usage(self._prompts, sum(len(sequence.token_ids) for sequence in sequences)),
        )

    async def chunks(self) -> AsyncGenerator[GeneratedSequence, None]:
        """Run and yield what every step added."""
        async with aclosing(self._gateway.run(list(self._choices.values()))) as stream:
            async for delta in stream:
                yield self._render(delta)

    def _render(self, delta: ChoiceDelta) -> GeneratedSequence:
        params = self._choices[delta.index].request.params
        return GeneratedSequence(
            index=delta.index,
            text=delta.text,
            token_ids=delta.token_ids,
            num_drafted=delta.num_drafted,
            num_accepted=delta.num_accepted,
            segments=delta.segments,
            finish_reason=delta.finish_reason.value if delta.finish_reason else None,
            seed=params.seed if delta.finish_reason else UNSET,
            stats=UNSET if delta.stats is None else delta.stats,
            logprobs=delta.logprobs if params.logprobs is not None else UNSET,
            prompt_logprobs=UNSET if delta.prompt_logprobs is None else delta.prompt_logprobs,
        )
