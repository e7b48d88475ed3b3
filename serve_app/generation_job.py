"""One ``/generate`` request on its way, in the engine."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import numpy as np
from msgspec import UNSET

from cluster.tensor_names import Array
from serve_app.choices import Choice, ChoiceDelta, collect
from serve_app.gateway import Gateway
from serve_app.generations import GeneratedSequence, GenerateResponse
from serve_app.prompts import Prompt
from serve_app.usage import count_usage


class GenerationJob:
    """Knows the request, its prompts and its sequences.

    Args:
        pad_token_id: fills rows that end early, where they are wanted as one tensor.
    """

    def __init__(
        self,
        gateway: Gateway,
        prompts: Sequence[Prompt],
        choices: Sequence[Choice],
        *,
        job_id: str,
        seed: int,
        pad_token_id: int,
    ) -> None:
        self._gateway = gateway
        self._prompts = prompts
        self._choices = {choice.index: choice for choice in choices}
        self._id = job_id
        self._seed = seed
        self._pad_token_id = pad_token_id

    async def answer(self) -> GenerateResponse:
        """Run to the end and return the whole answer."""
        runs = await collect(self._gateway.run(list(self._choices.values())))
        sequences = [self._render(run) for run in runs]
        return whole_answer(self._gateway.name, self._prompts, sequences, job_id=self._id, seed=self._seed)

    async def answer_with_tensors(self) -> tuple[GenerateResponse, dict[str, Array]]:
        """The same, and its ``sequences`` as one tensor."""
        answer = await self.answer()
        prompts = [self._choices[sequence.index].request.prompt_token_ids for sequence in answer.sequences]
        rows = [sequence.token_ids for sequence in answer.sequences]
        return answer, {"sequences": pad(prompts, rows, self._pad_token_id)}

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


def whole_answer(
    model: str, prompts: Sequence[Prompt], sequences: list[GeneratedSequence], *, job_id: str, seed: int
) -> GenerateResponse:
    """All sequences of a request, and its token counts."""
    num_new_tokens = sum(len(sequence.token_ids) for sequence in sequences)
    usage = count_usage(prompts, num_new_tokens)
    return GenerateResponse(id=job_id, model=model, seed=seed, sequences=sequences, usage=usage)


def pad(
    prompts: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], pad_token_id: int, fill: int | None = None
) -> Array:
    """Prompts, padded on the left, and new tokens behind them, padded on the right: (rows, width + longest) int64.

    ``fill`` stands behind ended rows where that is another than the pad token.
    """
    width, longest = max(map(len, prompts)), max(map(len, rows))
    padded = np.full((len(rows), width + longest), pad_token_id, np.int64)
    padded[:, width:] = pad_token_id if fill is None else fill
    for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        padded[index, width - len(prompt) : width + len(row)] = [*prompt, *row]
    return padded
