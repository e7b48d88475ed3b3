"""How far a batch job is, and what it came to: a bar on a terminal, plain lines in a job's log."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

import msgspec
from tqdm import tqdm

from actors.status import ClusterStats

LINE_INTERVAL = 15.0
BAR_FORMAT = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a job came to. Counts of tokens and times are those of this run; seconds from the cluster being ready.

    Attributes:
        num_requests: lines of the input.
        num_done_before: of these, the ones that an earlier run had done.
        num_failed: results without an answer, earlier runs' included.
        acceptance_rate: of drafted tokens, None where nothing was drafted.
    """

    num_requests: int
    num_done_before: int
    num_failed: int
    num_prompt_tokens: int
    num_completion_tokens: int
    tokens_per_second: float
    acceptance_rate: float | None
    start_seconds: float
    seconds: float
    output: str

    def lines(self) -> list[str]:
        """For people."""
        before = f" ({self.num_done_before} of them by an earlier run)" if self.num_done_before else ""
        rate = "nothing drafted" if self.acceptance_rate is None else f"{self.acceptance_rate:.0%} of drafts accepted"
        return [
            f"{self.num_requests} requests done{before}, {self.num_failed} failed; results in {self.output}",
            f"{self.num_completion_tokens} tokens behind {self.num_prompt_tokens} of prompts in {self.seconds:.1f} s, "
            f"{self.tokens_per_second:.1f} tokens/s; {rate}; the cluster took {self.start_seconds:.1f} s to be ready",
        ]


@dataclass
class Drafting:
    """The share of drafted tokens that were accepted since the job began, over restarts of the router."""

    num_drafted: int = 0
    num_accepted: int = 0
    _last: tuple[int, int] | None = None

    def note(self, stats: ClusterStats) -> None:
        """Take in the cluster's counters; a router that was restarted counts from 0."""
        now = (stats.num_draft_tokens, stats.num_accepted_tokens)
        if self._last is not None:
            is_new = now[0] < self._last[0]
            self.num_drafted += now[0] - (0 if is_new else self._last[0])
            self.num_accepted += now[1] - (0 if is_new else self._last[1])
        self._last = now

    @property
    def rate(self) -> float | None:
        """None where nothing was drafted."""
        return self.num_accepted / self.num_drafted if self.num_drafted else None


@dataclass
class Progress:
    """Counts results as they are written and shows them on ``stream``, at most every :data:`LINE_INTERVAL` in a log."""

    total: int
    done: int
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    drafting: Drafting = field(default_factory=Drafting)

    def __post_init__(self) -> None:
        self._num_before = self.done
        self._begun = self.clock()
        self._shown = self._begun
        self._bar: Any = None
        if self.stream.isatty():
            self._bar = tqdm(
                total=self.total, initial=self.done, file=self.stream, bar_format=BAR_FORMAT, dynamic_ncols=True
            )

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self.clock() - self._begun

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens of finished requests over the time so far."""
        return self.num_completion_tokens / self.seconds if self.seconds else 0.0

    def advance(self, num_results: int, num_prompt_tokens: int, num_completion_tokens: int) -> None:
        """Count results that are on the disk."""
        self.done += num_results
        self.num_prompt_tokens += num_prompt_tokens
        self.num_completion_tokens += num_completion_tokens
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._figures()), refresh=False)
            self._bar.update(num_results)
        elif self.clock() - self._shown >= LINE_INTERVAL:
            self._shown = self.clock()
            self.stream.write(f"{self.done}/{self.total} requests, {', '.join([*self._figures(), self._eta()])}\n")
            self.stream.flush()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _figures(self) -> list[str]:
        rate = self.drafting.rate
        return [f"{self.tokens_per_second:.1f} tokens/s"] + ([f"{rate:.0%} accepted"] if rate is not None else [])

    def _eta(self) -> str:
        num_new = self.done - self._num_before
        seconds = round((self.total - self.done) * self.seconds / num_new) if num_new else 0
        return f"{tqdm.format_interval(seconds)} left"
