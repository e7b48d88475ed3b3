"""One ``/generate`` request on its way, where transformers' own code runs it: guidance, tensors, encoders, ..."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import UNSET

from actors.native_job import Tokens
from cluster.tensor_names import Array, flatten
from serve_app.gateway import Gateway
from serve_app.generation_job import whole_answer
from serve_app.generations import GeneratedSequence, GenerateResponse
from serve_app.native_plan import NativePlan
from serve_app.prompts import Prompt
from serve_app.text import TextRules, TextStream


class NativeCallJob:
    """Knows the call and how its rows become text."""

    def __init__(
        self, gateway: Gateway, prompts: Sequence[Prompt], plan: NativePlan, *, job_id: str, seed: int
    ) -> None:
        self._gateway = gateway
        self._prompts = prompts
        self._plan = plan
        self._id = job_id
        self._seed = seed

    async def answer(self) -> GenerateResponse:
        """Run to the end and return the whole answer."""
        return self._render(await self._run())

    async def answer_with_tensors(self) -> tuple[GenerateResponse, dict[str, Array]]:
        """The same, and all tensors of the output."""
        fields = await self._run()
        return self._render(fields), flatten(fields)

    async def chunks(self) -> AsyncGenerator[GeneratedSequence, None]:
        """Run and yield what every step added to the one sequence."""
        text = self._text(self._prompts[0])
        is_prompt = True
        async with aclosing(self._gateway.run_call(self._plan.call, num_sequences=1)) as items:
            async for item in items:
                if isinstance(item, Tokens):
                    if not is_prompt:
                        yield _chunk(item.token_ids, text)
                    is_prompt = False
                else:
                    token_ids = self._new_tokens(item["sequences"][0].tolist(), self._prompts[0], is_only=True)
                    yield _chunk((), text, finish_reason=self._finish_reason(token_ids))

    async def _run(self) -> Mapping[str, Any]:
        """The fields of the output."""
        count = len(self._prompts) * self._plan.num_sequences
        async with aclosing(self._gateway.run_call(self._plan.call, num_sequences=count)) as items:
            found = [item async for item in items if not isinstance(item, Tokens)]
        return found[-1]

    def _render(self, fields: Mapping[str, Any]) -> GenerateResponse:
        rows: list[list[int]] = fields["sequences"].tolist()
        scores = fields.get("sequences_scores")
        sequences = []
        for index, row in enumerate(rows):
            prompt = self._prompts[index // self._plan.num_sequences]
            token_ids = self._new_tokens(row, prompt, is_only=len(rows) == 1)
            written = self._healed(row, prompt) if self._is_healed else None
            sequence = _chunk(
                token_ids, self._text(prompt), index=index, finish_reason=self._finish_reason(token_ids), text=written
            )
            score = UNSET if scores is None else float(scores[index])
            sequences.append(msgspec.structs.replace(sequence, score=score))
        return whole_answer(self._gateway.name, self._prompts, sequences, job_id=self._id, seed=self._seed)

    @property
    def _is_healed(self) -> bool:
        return bool(self._plan.call.fields.get("token_healing"))

    def _text(self, prompt: Prompt) -> TextStream:
        before = () if self._plan.has_encoder else prompt.token_ids
        return TextStream(self._gateway.tokenizer, before, TextRules(include_stop=True))

    def _healed(self, row: Sequence[int], prompt: Prompt) -> str:
        """What a row reads behind its prompt, the last token of which was replaced."""
        before, whole = (
            self._gateway.tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt.token_ids, row)
        )
        return whole.strip().removeprefix(before.strip())

    def _new_tokens(self, row: list[int], prompt: Prompt, *, is_only: bool) -> tuple[int, ...]:
        """What follows a row's prompt, up to its end; what fills it up to the longest row is left out."""
        start = self._plan.num_before
        if self._is_healed:
            padding = [self._plan.pad_token_id] * (start - len(prompt.token_ids))
            before = [*padding, *prompt.token_ids]
            start = next((i for i, (a, b) in enumerate(zip(before, row, strict=False)) if a != b), start)
        new = row[start:]
        ends = () if self._plan.params.ignore_eos else self._plan.params.eos_token_id
        end = next((i + 1 for i, token in enumerate(new) if token in ends), None)
        if end is None and not is_only:
            end = len(new)
            while end and new[end - 1] == self._plan.pad_token_id:
                end -= 1
        return tuple(new[:end])

    def _finish_reason(self, token_ids: Sequence[int]) -> str:
        params = self._plan.params
        if token_ids and token_ids[-1] in params.eos_token_id:
            return "stop"
        if len(token_ids) >= params.max_new_tokens:
            return "length"
        return "stop" if params.stop_strings or params.stopping_criteria else "time"


def _chunk(
    token_ids: Sequence[int],
    stream: TextStream,
    *,
    index: int = 0,
    finish_reason: str | None = None,
    text: str | None = None,
) -> GeneratedSequence:
    """New tokens of a sequence, none of them drafted; ``text`` stands in for what they read."""
    segments = stream.push(token_ids)
    if finish_reason is not None:
        segments += stream.finish()
    written = "".join(piece for piece, _ in segments) if text is None else text
    return GeneratedSequence(
        index=index,
        text=written,
        token_ids=tuple(token_ids),
        num_drafted=0,
        num_accepted=0,
        segments=((written, False),) if written else (),
        finish_reason=finish_reason,
    )
