"""The journal of one request: what was asked and what came of it so far (DESIGN, rule 1).

Deltas carry absolute positions, so one that comes twice, late or from a second run of the same request adds only what
is new; one that lies ahead of the journal shows that something in between was lost.
"""

from collections.abc import Sequence

import msgspec

from actors.engine.request import Delta, Request, TokenLogprobs

MIN_TIME = 1e-3  # seconds that are left to a request at least, whose time has run out while it was moved


class Gap(Exception):
    """A delta lies ahead of the journal: tokens in between were lost and must be sent or generated again."""


class Contradiction(Exception):
    """A delta repeats tokens of the journal as others: it comes from a run whose near ties fell the other way."""


class Journal:
    """Prompt, parameters and every token emitted so far of one request, with log-probabilities where it wants them."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.token_ids = list(request.emitted_token_ids)
        self.is_finished = False
        self._logprobs: list[TokenLogprobs] = []  # of the last tokens; those before are known elsewhere
        self._prompt_logprobs: tuple[TokenLogprobs, ...] | None = None

    def accept(self, delta: Delta) -> Delta | None:
        """Enter a delta. Returns the part of it that is new, or None where nothing is.

        Raises:
            Gap: the delta starts behind the end of the journal, which is then unchanged.
            Contradiction: it disagrees with the journal about what both have; the journal is unchanged.
        """
        if self.is_finished:
            return None
        num_known = len(self.token_ids)
        if delta.start > num_known:
            raise Gap(f"{delta.request_id}: {num_known} tokens known, but the delta starts at {delta.start}")
        if not agree(self.token_ids[delta.start :], delta.token_ids):
            raise Contradiction(f"{delta.request_id}: the delta at {delta.start} contradicts what was emitted")
        fresh = skip(delta, num_known - delta.start)
        if not fresh.token_ids and fresh.finish_reason is None:
            return None
        self.token_ids.extend(fresh.token_ids)
        self._logprobs.extend(fresh.logprobs or ())
        self._prompt_logprobs = fresh.prompt_logprobs or self._prompt_logprobs
        self.is_finished = fresh.finish_reason is not None
        return fresh

    def since(self, start: int) -> Delta | None:
        """Return what was emitted from token ``start`` on as one delta, or None where nothing was."""
        token_ids = tuple(self.token_ids[start:])
        if not token_ids:
            return None
        return Delta(
            request_id=self.request.request_id,
            start=start,
            token_ids=token_ids,
            logprobs=tuple(self._logprobs[-len(token_ids) :]) if len(self._logprobs) >= len(token_ids) else None,
            prompt_logprobs=self._prompt_logprobs if start == 0 else None,
        )

    def resume(self, elapsed: float = 0.0) -> Request:
        """Return the request that continues behind what was emitted, ``elapsed`` seconds after it began."""
        params = self.request.params
        if params.max_time is not None:
            params = msgspec.structs.replace(params, max_time=max(MIN_TIME, params.max_time - elapsed))
        return msgspec.structs.replace(self.request, params=params, emitted_token_ids=tuple(self.token_ids))


def agree(token_ids: Sequence[int], others: Sequence[int]) -> bool:
    """Whether two runs of tokens are equal as far as both reach."""
    num_common = min(len(token_ids), len(others))
    return tuple(token_ids[:num_common]) == tuple(others[:num_common])


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
        prompt_logprobs=None,  # they came with the first of the tokens that are known
    )
