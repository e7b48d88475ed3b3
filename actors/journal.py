"""The journal of one request: what was asked and what came of it so far (DESIGN, rule 1).

Deltas carry absolute positions, so one that comes twice, late or from a second run of the same request adds only what
is new; one that lies ahead of the journal shows that something in between was lost.
"""

import msgspec

from actors.engine.request import Delta, Request


class Gap(Exception):
    """A delta lies ahead of the journal: tokens in between were lost and must be generated again."""


class Journal:
    """Prompt, parameters and every token emitted so far of one request."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.token_ids = list(request.emitted_token_ids)
        self.is_finished = False

    def accept(self, delta: Delta) -> Delta | None:
        """Enter a delta. Returns the part of it that is new, or None where nothing is.

        Raises Gap where the delta starts behind the end of the journal, which is then unchanged.
        """
        if self.is_finished:
            return None
        if delta.start > len(self.token_ids):
            raise Gap(f"{delta.request_id}: {len(self.token_ids)} tokens known, but the delta starts at {delta.start}")
        fresh = skip(delta, len(self.token_ids) - delta.start)
        if not fresh.token_ids and fresh.finish_reason is None:
            return None
        self.token_ids.extend(fresh.token_ids)
        self.is_finished = fresh.finish_reason is not None
        return fresh

    def resume(self) -> Request:
        """Return the request that continues behind what was emitted."""
        return msgspec.structs.replace(self.request, emitted_token_ids=tuple(self.token_ids))


def skip(delta: Delta, num_tokens: int) -> Delta:
    """Return a delta without its first ``num_tokens`` tokens; they count off the accepted ones first."""
    if num_tokens <= 0:
        return delta
    return msgspec.structs.replace(
        delta,
        start=delta.start + num_tokens,
        token_ids=delta.token_ids[num_tokens:],
        num_drafted=max(0, delta.num_drafted - num_tokens),
        num_accepted=max(0, delta.num_accepted - num_tokens),
        logprobs=None if delta.logprobs is None else delta.logprobs[num_tokens:],
    )
