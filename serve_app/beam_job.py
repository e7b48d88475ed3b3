"""One ``/generate`` request with beams on its way in the engine: a search behind each prompt."""

from collections.abc import AsyncGenerator, Sequence

import numpy as np

from actors.engine.request import Beam
from cluster.tensor_names import Array
from serve_app.choices import Choice, collect
from serve_app.gateway import Gateway
from serve_app.generation_job import pad, whole_answer
from serve_app.generations import GeneratedSequence, GenerateResponse
from serve_app.prompts import Prompt
from serve_app.text import TextRules, TextStream


class BeamJob:
    """Knows the request, its prompts and its searches.

    Args:
        num_returned: sequences behind each prompt.
        pad_token_id: stands before shorter prompts, and fill behind rows that end early, where they are one tensor.
    """

    def __init__(
        self,
        gateway: Gateway,
        prompts: Sequence[Prompt],
        searches: Sequence[Choice],
        *,
        job_id: str,
        seed: int,
        num_returned: int,
        pad_token_id: int,
        fill: int,
    ) -> None:
        self._gateway = gateway
        self._prompts = prompts
        self._searches = searches
        self._id = job_id
        self._seed = seed
        self._num_returned = num_returned
        self._pad_token_id = pad_token_id
        self._fill = fill

    async def answer(self) -> GenerateResponse:
        """Run to the end and return the whole answer."""
        return self._whole(await self._run())

    async def answer_with_tensors(self) -> tuple[GenerateResponse, dict[str, Array]]:
        """The same, and as tensors what a search has: its sequences, their scores, and the beams that they came by."""
        rows = await self._run()
        beams = [beam for row in rows for beam in row]
        prompts = [prompt.token_ids for prompt in self._prompts for _ in range(self._num_returned)]
        num_beams = self._searches[0].request.params.num_beams
        firsts = [number * num_beams for number, row in enumerate(rows) for _ in row]
        indices = [[first + at for at in beam.beam_indices] for first, beam in zip(firsts, beams, strict=True)]
        tensors = {
            "sequences": pad(prompts, [beam.token_ids for beam in beams], self._pad_token_id, self._fill),
            "sequences_scores": np.array([beam.score for beam in beams], np.float32),
            "beam_indices": pad([()] * len(beams), indices, -1).astype(np.int32),
        }
        return self._whole(rows), tensors

    async def chunks(self) -> AsyncGenerator[GeneratedSequence, None]:
        """The whole answer, a sequence a chunk: none has its text before the end."""
        for sequence in (await self.answer()).sequences:
            yield sequence

    async def _run(self) -> list[tuple[Beam, ...]]:
        """What each search has found, best first."""
        runs = await collect(self._gateway.run(self._searches))
        return [run.beams[: self._num_returned] for run in runs]

    def _whole(self, rows: Sequence[Sequence[Beam]]) -> GenerateResponse:
        found = [(prompt, beam) for prompt, row in zip(self._prompts, rows, strict=True) for beam in row]
        sequences = [self._render(index, prompt, beam) for index, (prompt, beam) in enumerate(found)]
        return whole_answer(self._gateway.name, self._prompts, sequences, job_id=self._id, seed=self._seed)

    def _render(self, index: int, prompt: Prompt, beam: Beam) -> GeneratedSequence:
        stream = TextStream(self._gateway.tokenizer, prompt.token_ids, TextRules(include_stop=True))
        text = "".join(piece for piece, _ in stream.push(beam.token_ids) + stream.finish())
        return GeneratedSequence(
            index=index,
            text=text,
            token_ids=beam.token_ids,
            num_drafted=0,
            num_accepted=0,
            segments=((text, False),) if text else (),
            finish_reason=beam.finish_reason.value,
            score=beam.score,
        )
