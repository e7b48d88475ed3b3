"""One draft as a target sees it: whether it answers, how quickly, and how often it is right."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from actors.draft_length import DRAFT_DECAY, Acceptance
from actors.health import DraftHealth

# Hopeful: what is thought too cheap gets tried and measured, what is thought too dear never would.
LATENCY_PRIOR = 0.001
STEP_PRIOR = 0.001
FORESIGHT_DOUBT = 2.0  # misses that a draft's second choices begin with
WEIGHT = 0.2  # of a new measurement in the mean
MAX_SURPRISE = 2.0  # times the usual that a measurement counts for at most
MIN_PROBE_INTERVAL = 64  # steps between two questions to a draft that does not pay, doubled while it does not
MAX_PROBE_INTERVAL = 2048


@dataclass
class Mean:
    """A running mean of times; the first measurement replaces the guess."""

    value: float
    is_measured: bool = False

    def add(self, seconds: float) -> None:
        """Enter one measurement."""
        if not self.is_measured:
            self.value, self.is_measured = seconds, True
            return
        bounded = min(seconds, MAX_SURPRISE * self.value + 0.001)
        self.value += WEIGHT * (bounded - self.value)


@dataclass
class DraftView:
    """What a target has learnt of one draft. All times are seconds of the target's clock.

    Attributes:
        acceptance: of what it writes; ``second`` of its second choices where the first was wrong.
        steps: mean seconds of the draft's forwards while it writes ahead (True) and while it does not.
        latency: mean seconds of an answer beyond those of its forwards.
        open_ids: sequences about which it has been asked and has not answered.
        deadline: when its silence counts as a miss; None while nothing is open.
        is_local: whether it is no actor but a drafter at the target itself, which costs no time.
        is_late: whether a wait for it was in vain and nothing has come since, so that it is not waited for.
    """

    health: DraftHealth = field(default_factory=DraftHealth)
    acceptance: Acceptance = field(default_factory=lambda: Acceptance(DRAFT_DECAY))
    second: Acceptance = field(default_factory=lambda: Acceptance(DRAFT_DECAY))
    steps: dict[bool, Mean] = field(default_factory=lambda: {True: Mean(STEP_PRIOR), False: Mean(STEP_PRIOR)})
    latency: Mean = field(default_factory=lambda: Mean(LATENCY_PRIOR))
    open_ids: set[str] = field(default_factory=set)
    deadline: float | None = None
    is_local: bool = False
    is_late: bool = False
    probe_step: int = 0
    probe_interval: int = MIN_PROBE_INTERVAL

    @property
    def foresight(self) -> float:
        """How often it has gone on from what the target had in place of its own choice; 0 before that was tried."""
        return self.second.num_accepted / (self.second.num_accepted + self.second.num_rejected + FORESIGHT_DOUBT)

    @classmethod
    def at_target(cls) -> "DraftView":
        """One of a drafter that is no actor."""
        return cls(steps={True: Mean(0.0), False: Mean(0.0)}, latency=Mean(0.0), is_local=True)

    def can_wait(self) -> bool:
        """Whether a target may wait for it."""
        return self.health.can_wait() and not self.is_late

    def asked(self, request_ids: Iterable[str], now: float, timeout: float) -> None:
        """Note questions, which it has ``timeout`` seconds to say anything to."""
        self.open_ids.update(request_ids)
        self.deadline = now + timeout if self.deadline is None else min(self.deadline, now + timeout)

    def answered(self, request_ids: Iterable[str], now: float, timeout: float) -> None:
        """Note a message of the draft."""
        self.health.answered()
        self.is_late = False
        self.open_ids.difference_update(request_ids)
        self.deadline = now + timeout if self.open_ids else None

    def dropped(self, request_id: str) -> None:
        """Note that no answer about a sequence is needed any more."""
        self.open_ids.discard(request_id)
        if not self.open_ids:
            self.deadline = None

    def expire(self, now: float) -> bool:
        """Note a silence that has lasted too long; whether it has."""
        if self.deadline is None or self.deadline > now:
            return False
        self.health.missed(now)
        self.open_ids.clear()
        self.deadline, self.is_late = None, True
        return True

    def take_probe(self, step: int) -> bool:
        """Whether a draft that does not pay should be asked once more at this step of the target; then it is taken."""
        if step < self.probe_step:
            return False
        self.probe_step = step + self.probe_interval
        self.probe_interval = min(2 * self.probe_interval, MAX_PROBE_INTERVAL)
        return True

    def pays(self) -> None:
        """Note that it is worth asking: the next time that it is not, it is probed soon."""
        self.probe_interval = MIN_PROBE_INTERVAL
