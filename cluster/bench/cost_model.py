"""What synchronous speculation should bring, by the cost model of Leviathan et al. (2023, section 3.3).

::

    speed-up = E / (V(k + 1) + k c)        E = 1 + a + ... + a^k

a is the chance that a drafted token is right where those before it are, k the draft length, V(m) a forward of the
target of m tokens over one of a single token, c a forward of the draft over that.
"""

from collections.abc import Iterable

from actors.draft_length import expected_tokens
from actors.status import StepTime

MAX_CATCH_UP = 4  # tokens that a draft's forward may compute and still be one of drafting, not of reading a prompt


def predicted_speedup(acceptance: float, num_draft_tokens: int, verify: float, draft: float) -> float:
    """Return the speed-up over plain decoding.

    Args:
        acceptance: a.
        num_draft_tokens: k.
        verify: V(k + 1).
        draft: c.
    """
    return expected_tokens(acceptance, num_draft_tokens) / (verify + num_draft_tokens * draft)


def acceptance_of(num_accepted: int, num_drafts: int, num_full: int) -> float | None:
    """Return a: right tokens over those that were tested, which ends with a draft's first wrong one.

    Args:
        num_accepted: drafted tokens that were right.
        num_drafts: drafts that were checked.
        num_full: those of them that were right to their end.
    """
    num_tested = num_accepted + num_drafts - num_full
    return num_accepted / num_tested if num_tested else None


def seconds_of(step_times: Iterable[StepTime], num_tokens: int) -> float | None:
    """Return the mean seconds of forwards of ``num_tokens`` tokens, None where there was none."""
    entry = next((entry for entry in step_times if entry.knot == num_tokens), None)
    return entry.seconds / entry.num_steps if entry is not None and entry.num_steps else None


def drafting_seconds(step_times: Iterable[StepTime], num_sequences: int = 1) -> float | None:
    """Return the mean seconds of a draft's forwards but for those that read prompts, None where there was none."""
    entries = [entry for entry in step_times if entry.knot <= MAX_CATCH_UP * num_sequences]
    num_steps = sum(entry.num_steps for entry in entries)
    return sum(entry.seconds for entry in entries) / num_steps if num_steps else None
