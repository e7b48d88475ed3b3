"""The router's decisions: admission, placement, failover. Free of Ray: :class:`RouterActor` drives it.

The router keeps a journal of every request in flight, so that it can place one again when its target dies. That copy is
a cache like all else: when the router itself dies, clients submit again from their own journals.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable

import msgspec

from actors import deadlines
from actors.attendance import Attendance
from actors.config import RouterConfig
from actors.engine.request import Delta, FinishReason
from actors.intake import Intake
from actors.journal import Contradiction, Gap, Journal, agree
from actors.link import Link
from actors.messages import (
    Abort,
    Cancel,
    Crash,
    Deltas,
    Greet,
    Leave,
    Message,
    Pair,
    Refuse,
    Report,
    Start,
    Submit,
)
from actors.placement import Entry, Placement
from actors.registry import Registry
from actors.status import ClusterStats
from actors.tally import Tally
from actors.unrest import Unrest

logger = logging.getLogger(__name__)


class Router:
    """Places requests on targets and drafts in front of them, and sees every one of them to its end.

    ``link`` reaches workers and clients alike, each by its id. ``models`` names the cluster's target pools: requests
    for them wait, where those for others are refused, even before the first of their targets has registered.
    ``is_restart`` says that a router before it died.
    """

    def __init__(
        self,
        link: Link,
        config: RouterConfig,
        clock: Callable[[], float],
        models: Iterable[str] = (),
        *,
        is_restart: bool = False,
    ) -> None:
        self._link = link
        self._config = config
        self._clock = clock
        self._started_at = clock()
        self._registry = Registry(config.worker_timeout, clock, models)
        self._placement = Placement()
        self._intake = Intake(self._registry, config.max_num_requests, clock)
        self._clients = Attendance(clock)
        self._tally = Tally()
        self._unrest = Unrest(clock)
        if is_restart:
            self._unrest.note()

    def submit(self, message: Submit) -> Refuse | None:
        """Take a request in, or say why not. One that is known already is taken over by the client that asks now."""
        request, now = message.request, self._clock()
        self._clients.note(message.client_id)
        entry = self._placement.get(request.request_id)
        if entry is not None:
            self._take_over(entry, message)
            return None
        refusal = self._intake.refusal(message, len(self._placement))
        if refusal is not None:
            return refusal
        entry = Entry(
            Journal(request),
            message.client_id,
            message.model,
            arrived_at=now,
            waiting_since=now,
            is_again=message.is_again,
            held_by=message.target_id,
        )
        self._placement.add(entry)
        self._place(entry)
        return None

    def handle(self, message: Message) -> None:
        """Take in one message of a worker or a client."""
        match message:
            case Deltas():
                self._deltas(message)
            case Report():
                self._report(message)
            case Cancel(request_id=request_id):
                self._cancel(request_id)
            case Refuse():
                self._refuse(message)
            case Crash(worker_id=worker_id, request_ids=request_ids, error=error):
                self._displace(worker_id, set(request_ids) & self._placement.on(worker_id), error, is_proven=True)
            case Leave(worker_id=worker_id):
                self.worker_gone(worker_id, error="")
            case _:
                logger.warning("router: no use for a %s", type(message).__name__)

    def tick(self) -> list[str]:
        """Look after what nobody reports: silent workers and clients, and requests that wait for a target.

        Returns the clients that are given up.
        """
        now = self._clock()
        for worker_id in self._registry.silent():
            self.worker_gone(worker_id, error=f"no report for {self._config.worker_timeout:g} s")
        lost_clients = self._clients.take_lost()
        for client_id in lost_clients:
            for entry in self._placement.of_client(client_id):
                self._cancel(entry.request_id)
        self._place_waiting()
        for entry in self._placement.waiting():
            refusal = self._intake.unknown_model(entry.request_id, entry.model, is_again=entry.is_again)
            if refusal is not None:
                self._refuse(refusal)
            elif now - entry.waiting_since > deadlines.MAX_WAIT:
                limit = f"{deadlines.MAX_WAIT:g} s"
                self._fail(entry, f"no target for {entry.model!r} has come up within {limit} {entry.last_error}")
        return lost_clients

    def client_alive(self, client_id: str, request_ids: Iterable[str]) -> list[str]:
        """Note a client's sign of life and all its open requests. Returns those that the router does not know.

        What the client has not named several times in a row it has given up, and the word of that was lost.
        """
        self._clients.note(client_id)
        request_ids = set(request_ids)
        for entry in self._placement.of_client(client_id):
            entry.num_beats_without = 0 if entry.request_id in request_ids else entry.num_beats_without + 1
            if entry.num_beats_without >= deadlines.MISSING_BEATS:
                self._cancel(entry.request_id)
        return [request_id for request_id in request_ids if self._placement.get(request_id) is None]

    def worker_gone(self, worker_id: str, error: str, pid: int | None = None) -> None:
        """Take a worker as dead: its requests go elsewhere. With no ``error`` it left in good order."""
        info = self._registry.mark_gone(worker_id, pid)
        if info is None:
            return
        if error:
            logger.warning("router: %s is gone: %s", worker_id, error)
            self._unrest.note(self._placement[request_id].suspicion for request_id in self._placement.on(worker_id))
        else:
            logger.info("router: %s has left", worker_id)
        if info.role == "target":
            self._displace(worker_id, self._placement.on(worker_id), error and f"its target died ({error})")
        else:
            self._pair([e for e in self._placement if e.draft_id == worker_id])

    def stats(self) -> ClusterStats:
        """Return the cluster as the router sees it now."""
        stats = self._tally.enter(self._registry.stats(lambda worker_id: len(self._placement.on(worker_id))))
        uptime = self._clock() - self._started_at
        return msgspec.structs.replace(stats, num_requests=len(self._placement), uptime=uptime)

    def _place(self, entry: Entry) -> None:
        """Start a request on the target that has it, or else on the least loaded; it waits where none takes it."""
        now = self._clock()
        if now < entry.retry_at:
            return
        is_early = now - self._started_at < deadlines.ADOPTION_TIME
        if self._registry.holds(entry.held_by, entry.request_id):
            target_id: str | None = entry.held_by
        elif entry.held_by and is_early and not self._registry.is_alive(entry.held_by):
            return
        else:
            target_id = self._placement.choose_target(entry, self._registry.alive("target", entry.model))
        if target_id is None:
            return
        self._placement.attach(entry, target_id, now)
        draft_id = self._placement.choose_draft(entry, self._registry.alive("draft", entry.model))
        self._placement.pair(entry, draft_id)
        self._start(entry)

    def _start(self, entry: Entry) -> None:
        """Tell a request's target to run it, or to send again what the journal lacks where it runs it already."""
        entry.resent_at = self._clock()
        self._link.send(entry.target_id, Start(request=entry.resume(entry.resent_at), draft_id=entry.draft_id))

    def _place_waiting(self) -> None:
        for entry in self._placement.waiting():
            self._place(entry)

    def _displace(self, worker_id: str, request_ids: Iterable[str], blame: str, *, is_proven: bool = False) -> None:
        """Take requests off a target and place them again. One that is blamed once too often fails."""
        entries = [self._placement[request_id] for request_id in request_ids]
        if blame:
            for entry in self._placement.suspects(worker_id, self._registry.num_waiting(worker_id)):
                entry.suspicion.died(is_proven=is_proven)
        for entry in entries:
            self._placement.detach(entry, now=self._clock())
            entry.is_again, entry.last_error = True, blame
            if entry.suspicion.is_convicted(0 if is_proven else self._unrest.lenience(entry.suspicion)):
                self._fail(entry, f"failed {entry.suspicion.num_deaths} times in a row: {blame}")
        self._place_waiting()

    def _pair(self, entries: Iterable[Entry]) -> None:
        """Give running requests another draft, or none, in one message a target and draft."""
        changed: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for entry in entries:
            if entry.target_id:
                draft_id = self._placement.choose_draft(entry, self._registry.alive("draft", entry.model))
                self._placement.pair(entry, draft_id)
                changed[entry.target_id, draft_id].append(entry.request_id)
        for (target_id, draft_id), request_ids in changed.items():
            self._link.send(target_id, Pair(request_ids=tuple(request_ids), draft_id=draft_id))

    def _deltas(self, message: Deltas) -> None:
        if not self._registry.is_alive(message.worker_id):
            self._link.send(message.worker_id, Greet())
        fresh: defaultdict[str, list[Delta]] = defaultdict(list)
        was_suspect = False
        for delta in message.items:
            entry = self._placement.get(delta.request_id)
            if entry is None or entry.target_id != message.worker_id:
                if delta.finish_reason is None and not self._may_hold(message.worker_id, delta.request_id):
                    self._link.send(message.worker_id, Abort(request_id=delta.request_id))
                continue
            entry.suspicion.emitted(delta.num_searched)
            try:
                new = entry.journal.accept(delta)
            except Gap:
                if self._clock() - entry.resent_at > deadlines.RESEND_INTERVAL:
                    self._start(entry)
                continue
            except Contradiction as contradiction:
                self._place_again(entry, str(contradiction))
                continue
            if new is None:
                continue
            self._tally.passed(delta, new)
            fresh[entry.client_id].append(new)
            was_suspect |= entry.suspicion.is_suspect
            entry.suspicion.emitted(len(new.token_ids))
            if new.finish_reason is not None:
                self._end(entry, is_failed=new.finish_reason is FinishReason.ERROR)
        for client_id, items in fresh.items():
            self._link.send(client_id, Deltas(worker_id=message.worker_id, items=tuple(items)))
        if was_suspect:
            self._place_waiting()

    def _report(self, report: Report) -> None:
        info = report.info
        if self._registry.is_restarted(report):
            self.worker_gone(info.worker_id, error="it was restarted")
        is_new = self._registry.enter(report)
        if is_new:
            logger.info("router: %s has joined pool %s as a %s", info.worker_id, info.pool, info.role)
        if info.role == "target":
            if is_new:
                self._place_waiting()
            if not report.is_repeat:
                self._compare(info.worker_id, set(report.request_ids))
                self._relieve(info.worker_id, info.pool)
        elif is_new:
            self._pair([e for e in self._placement if not e.draft_id and e.model == info.pool])
        if report.is_draining and info.role == "draft":
            self._pair([self._placement[request_id] for request_id in list(self._placement.on(info.worker_id))])

    def _compare(self, target_id: str, held: set[str]) -> None:
        """Find what got lost between router and target: requests that it should have, and those it should not."""
        now = self._clock()
        placed = self._placement.on(target_id)
        for request_id in held - placed:
            if not self._may_hold(target_id, request_id):
                self._link.send(target_id, Abort(request_id=request_id))
        for request_id in placed - held:
            entry = self._placement[request_id]
            entry.num_reports_without += now - entry.placed_at > self._config.report_interval
            if entry.num_reports_without >= deadlines.MISSING_REPORTS:
                self._place_again(entry, "the target does not know of it")
        for request_id in placed & held:
            self._placement[request_id].num_reports_without = 0

    def _may_hold(self, target_id: str, request_id: str) -> bool:
        """Whether a target rightly has a request that is not placed on it: from the days of an earlier router."""
        entry = self._placement.get(request_id)
        if entry is not None:
            return not entry.target_id and entry.held_by == target_id
        return self._clock() - self._started_at < deadlines.ORPHAN_TIME

    def _relieve(self, target_id: str, pool: str) -> None:
        """Move requests that queue on a target to others of its pool, where nothing queues: new ones above all."""
        others = [i for i in self._registry.alive("target", pool) if not self._registry.num_waiting(i)]
        for entry in self._placement.surplus(target_id, self._registry.num_waiting(target_id), others):
            self._place_again(entry, f"it queues on {target_id}")

    def _place_again(self, entry: Entry, why: str) -> None:
        logger.info("router: %s is placed again: %s", entry.request_id, why)
        self._link.send(entry.target_id, Abort(request_id=entry.request_id))
        self._placement.detach(entry, now=self._clock())
        self._place(entry)

    def _take_over(self, entry: Entry, message: Submit) -> None:
        """Give a request to the client that asks for it now, with the tokens that it does not have yet."""
        entry.client_id, entry.num_beats_without = message.client_id, 0
        known = message.request.emitted_token_ids
        if not agree(entry.journal.token_ids, known):  # what its reader has got is the truth
            entry.journal = Journal(message.request)
            if entry.target_id:
                self._place_again(entry, "its client has other tokens")
        elif (missing := entry.journal.since(len(known))) is not None:
            self._link.send(entry.client_id, Deltas(worker_id=entry.target_id, items=(missing,)))

    def _cancel(self, request_id: str) -> None:
        entry = self._placement.get(request_id)
        if entry is not None:
            if entry.target_id:
                self._link.send(entry.target_id, Abort(request_id=request_id))
            self._end(entry, is_failed=False)

    def _refuse(self, message: Refuse) -> None:
        entry = self._placement.get(message.request_id)
        if entry is None or entry.target_id != message.worker_id:
            return
        if message.is_overload and entry.is_again and entry.target_id:
            self._placement.detach(entry, now=self._clock())
            entry.retry_at = self._clock() + deadlines.OVERLOAD_DELAY
        else:
            self._link.send(entry.client_id, message)
            self._end(entry, is_failed=True)

    def _fail(self, entry: Entry, error: str) -> None:
        delta = Delta(
            request_id=entry.request_id,
            start=len(entry.journal.token_ids),
            finish_reason=FinishReason.ERROR,
            error=error.strip(),
        )
        self._link.send(entry.client_id, Deltas(worker_id=entry.target_id, items=(delta,)))
        self._end(entry, is_failed=True)

    def _end(self, entry: Entry, *, is_failed: bool) -> None:
        self._placement.remove(entry)
        self._tally.ended(is_failed=is_failed)
