"""Calls of ``generate`` with beams: a search a row in the engine, and transformers' output of what they find."""

from contextlib import closing
from dataclasses import dataclass

import torch
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput

from actors.engine.request import Beam
from cluster.background import BackgroundLoop
from cluster.calls import GenerateCall
from cluster.generation_client import Emit, GenerationClient, run_requests
from cluster.outputs import ClusterGenerateOutput, check_delta, pad_rows


@dataclass
class ClusterBeamOutput(GenerateBeamDecoderOnlyOutput):
    """transformers' output of beams and the seed; it has ``sequences_scores`` without ``output_scores`` too."""

    seed: int | None = None


Generated = torch.Tensor | ClusterGenerateOutput | ClusterBeamOutput
"""What ``generate`` may return."""


def run_searches(
    loop: BackgroundLoop, client: GenerationClient, call: GenerateCall, model: str, max_num_requests: int
) -> torch.Tensor | ClusterBeamOutput:
    """Run the rows of a call with beams side by side.

    Returns:
        Sequences (rows * num_return_sequences, width + longest), best first in each row, or an output with them.

    Raises:
        RequestError: a row was refused.
        GenerationError: a row failed.
    """
    rows: list[tuple[Beam, ...]] = [()] * len(call.prompts.rows)

    async def produce(emit: Emit) -> None:
        await run_requests(client, call.requests(), model, max_num_requests, emit)

    with closing(loop.iterate(produce)) as deltas:
        for index, delta in deltas:
            check_delta(index, delta)
            rows[index] = delta.beams or rows[index]
    output = beam_output(call, rows)
    return output if call.return_dict else output.sequences


def beam_output(call: GenerateCall, rows: list[tuple[Beam, ...]]) -> ClusterBeamOutput:
    """What a call returns of the beams that its rows have found.

    Shapes and padding are those of transformers: beam indices count over all rows, and are -1 behind an end.
    """
    input_ids = call.prompts.input_ids.repeat_interleave(call.num_returned, dim=0)
    beams = [beam for row in rows for beam in row[: call.num_returned]]
    indices = [
        [number * call.params.num_beams + index for index in beam.beam_indices]
        for number, row in enumerate(rows)
        for beam in row[: call.num_returned]
    ]
    scores = torch.tensor([beam.score for beam in beams], device=input_ids.device)
    none = torch.empty(len(beams), 0, dtype=torch.int32, device=input_ids.device)
    return ClusterBeamOutput(
        sequences=pad_rows(input_ids, [beam.token_ids for beam in beams], call.pad_token_id),  # type: ignore[arg-type]
        sequences_scores=scores,
        beam_indices=pad_rows(none, indices, -1),  # type: ignore[arg-type]
        seed=call.seed,
    )
