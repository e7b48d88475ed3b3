"""What has gone through the router since it started: requests and tokens."""

import msgspec

from actors.engine.counters import Counters
from actors.engine.request import Delta
from actors.status import ClusterStats


class Tally:
    """Counts tokens as they pass, not from reports, so that what a caller has received is in its figures."""

    def __init__(self) -> None:
        self._counters = Counters()
        self._num_finished = 0
        self._num_failed = 0

    def passed(self, delta: Delta, fresh: Delta) -> None:
        """Count a delta, of which ``fresh`` was new."""
        self._counters.count_check(delta.num_drafted, delta.num_accepted)
        num_found = sum(len(beam.token_ids) for beam in fresh.beams or ())
        self._counters.num_generated_tokens += len(fresh.token_ids) + num_found

    def ended(self, *, is_failed: bool) -> None:
        """Count a request that has ended."""
        self._num_finished += not is_failed
        self._num_failed += is_failed

    def enter(self, stats: ClusterStats) -> ClusterStats:
        """Return the cluster's state with these counts."""
        return msgspec.structs.replace(
            stats,
            num_finished=self._num_finished,
            num_failed=self._num_failed,
            num_drafts=self._counters.num_drafts,
            num_draft_tokens=self._counters.num_draft_tokens,
            num_accepted_tokens=self._counters.num_accepted_tokens,
            num_accepted_tokens_per_pos=tuple(self._counters.accepted_per_position),
            num_generated_tokens=self._counters.num_generated_tokens,
        )
