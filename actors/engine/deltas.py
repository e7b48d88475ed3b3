"""What an engine has to say of a sequence, as the deltas that carry it."""

from collections.abc import Sequence as Seq

from actors.engine.request import Delta, FinishReason, TokenLogprobs
from actors.engine.sequence import Sequence


def drafted(sequence: Sequence) -> Delta:
    """What a draft sequence wrote behind the ids that its target confirmed."""
    start = sequence.num_final_tokens
    return Delta(
        request_id=sequence.request_id,
        start=start - sequence.num_prompt_tokens,
        token_ids=tuple(sequence.token_ids[start:]),
    )


def failed(sequence: Sequence, error: str) -> Delta:
    """The end of a sequence that cannot go on."""
    return Delta(
        request_id=sequence.request_id,
        start=sequence.num_emitted_tokens,
        finish_reason=FinishReason.ERROR,
        error=error,
    )


def asked_logprobs(logprobs: Seq[TokenLogprobs | None]) -> tuple[TokenLogprobs, ...] | None:
    """Log-probabilities as a delta carries them; None where they were not asked for."""
    given = tuple(entry for entry in logprobs if entry is not None)
    return given or None
