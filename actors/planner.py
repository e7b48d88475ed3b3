"""Turns what a target has measured into plans: how far each sequence is drafted ahead, and whether at all."""

from actors.config import RouterConfig
from actors.draft_length import Acceptance, run_probabilities
from actors.draft_view import DraftView
from actors.drafted_sequence import DraftedSequence
from actors.goodput import MIN_GAIN, Conditions, Plan, best_plan
from actors.overlap_switch import OverlapSwitch
from actors.step_curve import Seconds, StepCurve
from actors.track_record import TrackRecord

# A first guess in seconds, which a few rounds of measurement replace.
VERIFY_PRIOR = (0.015, 0.001)
REFRESH_INTERVAL = 8  # steps after which plans are made anew from what was measured since
PROBE_LENGTH = 4  # tokens asked of a draft that does not pay, to see whether it does by now
_RATE_STEPS = 50  # acceptance rates are told apart in steps of 1/50


class Planner:
    """The measured curves of one target, with overlap and without, and the plans that follow from them."""

    def __init__(self, config: RouterConfig) -> None:
        self._most = config.max_num_assistant_tokens
        self._curves = {is_on: StepCurve(*VERIFY_PRIOR, prior_x=16.0) for is_on in (True, False)}
        self._switch = OverlapSwitch(config.overlap)
        self._has_branches = config.branches
        self._plans: dict[tuple[int, bool, int, int], Plan] = {}
        self._seconds: dict[bool, Seconds] = {}
        self._num_steps = 0
        self._num_sequences = 1
        self._record = TrackRecord()
        self._promised = 0.0  # tokens a second of one sequence in the running step; 0 where nothing is drafted

    @property
    def is_overlapped(self) -> bool:
        """Whether drafts write ahead at present."""
        return self._switch.is_on

    def note_step(self, num_rows: int, elapsed: float, *, is_overlapped: bool) -> None:
        """Learn from a forward that only decoded and checked."""
        self._curves[is_overlapped].add(num_rows, elapsed)

    def next_step(self, num_sequences: int, tokens: float, seconds: float) -> None:
        """Begin a step of ``num_sequences`` sequences.

        Args:
            num_sequences: that take part.
            tokens: what the step before should have yielded.
            seconds: from the step before that to it, 0 where that is not known.
        """
        self._num_steps += 1
        if not self._promised:
            self._record.undrafted()
        elif seconds > 0.0:
            self._record.drafted(tokens, self._promised * self._num_sequences * seconds)
        self._promised = 0.0
        if num_sequences != self._num_sequences or self._num_steps % REFRESH_INTERVAL == 0:
            self._plans.clear()
            self._seconds.clear()
        self._num_sequences = max(1, num_sequences)
        self._switch.note_step(tokens, seconds)

    def plan(self, acceptance: Acceptance, view: DraftView) -> Plan:
        """Return the plan for a sequence of ``acceptance`` with a draft."""
        return self._make(acceptance, view, is_on=self._switch.is_on and not view.is_local)

    def length(self, sequence: DraftedSequence, view: DraftView) -> tuple[int, int, bool]:
        """Plan for a sequence: how many ids to ask for, how many the draft may write ahead, whether it is a probe."""
        room = max(0, sequence.num_remaining_tokens - 1)  # the target adds one of its own
        if room == 0 or sequence.pinned == 0:
            return 0, 0, False
        plan = sequence.plan = self.plan(sequence.acceptance, view)
        if sequence.pinned is not None:
            k = min(sequence.scheduled or sequence.pinned, room)
            return k, min(plan.num_ahead, k + 1), False
        if plan.is_drafted and plan.gain * self._record.share >= MIN_GAIN:
            view.pays()
            self._promised = plan.rate
            return min(plan.num_draft_tokens, room), plan.num_ahead, False
        is_probe = view.take_probe(self._num_steps)
        return min(PROBE_LENGTH * is_probe, room), 0, is_probe

    def _make(self, acceptance: Acceptance, view: DraftView, *, is_on: bool) -> Plan:
        accepted, rejected = acceptance.posterior(view.acceptance.rate)
        rate = round(_RATE_STEPS * accepted / (accepted + rejected))
        weight = min(32, 1 << int(accepted + rejected).bit_length())  # how sure it is, in powers of two
        key = (id(view), is_on, rate, weight)
        if key not in self._plans:
            mean = min(max(rate / _RATE_STEPS, 0.005), 0.995)
            self._plans[key] = best_plan(
                run_probabilities(mean * weight, (1.0 - mean) * weight, self._most + 1),
                Conditions(
                    num_sequences=self._num_sequences,
                    verify=self._verify(is_on),
                    latency=view.latency.value,
                    draft_step=view.steps[is_on].value,
                    max_num_draft_tokens=self._most,
                    is_overlapped=is_on,
                    foresight=view.foresight if self._has_branches else 0.0,
                ),
            )
        return self._plans[key]

    def _verify(self, is_on: bool) -> Seconds:
        if is_on not in self._seconds:
            # What was never done is judged by what was.
            curve = self._curves[is_on] if self._curves[is_on].num_knots else self._curves[not is_on]
            self._seconds[is_on] = curve.seconds()
        return self._seconds[is_on]
