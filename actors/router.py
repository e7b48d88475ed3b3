"""The router's decisions: admission, placement, failover. Free of Ray: :class:`RouterActor` drives it.

The router keeps a journal of every request in flight, so that it can place one again when its target dies. That copy is
a cache like all else: when the router itself dies, clients submit again from their own journals.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable

import msgspec

from actors.config import RouterConfig
from actors.engine.counters import Counters
from actors.engine.request import Delta, FinishReason
from actors.journal import Gap, Journal
from actors.link import Link
from actors.messages import Abort, Cancel, Crash, Deltas, Leave, Message, Pair, Refuse, Report, Start, Submit
from actors.placement import Entry, Placement
from actors.registry import Registry
from actors.status import ClusterStats

logger = logging.getLogger(__name__)

MAX_NUM_DEATHS = 2  # targets that a request may take down without a token in between before it fails
MAX_WAIT = 120.0  # seconds that a request waits for a target of its model
GRACE = 2.0  # seconds after the router's start in which a model that it does not know may still register
CLIENT_TIMEOUT = 30.0  # seconds without a sign of life after which a client's requests are dropped
MISSING_REPORTS = 2  # reports in a row that must lack a request before it counts as lost


class Router:
    """Places requests on targets and drafts in front of them, and sees every one of them to its end.

    ``link`` reaches workers and clients alike, each by its id.
    """

    def __init__(self, link: Link, config: RouterConfig, clock: Callable[[], float]) -> None:
        self._link = link
        self._config = config
        self._clock = clock
        self._started_at = clock()
        self._registry = Registry(config.worker_timeout, clock)
        self._placement = Placement()
        self._clients: dict[str, float] = {}
        self._num_finished = 0
        self._counters = Counters()
        self._num_failed = 0

    def submit(self, message: Submit) -> Refuse | None:
        """Take a request in, or say why not. One that is known already is taken over by the client that asks now."""
        request, now = message.request, self._clock()
        self._clients[message.client_id] = now
        entry = self._placement.get(request.request_id)
        if entry is not None:
            entry.client_id = message.client_id
            self._catch_up(entry, len(request.emitted_token_ids))
            return None
        limit = self._config.max_num_requests
        if len(self._placement) >= limit:
            return Refuse(
                request_id=request.request_id,
                error=f"{limit} requests are in flight, as many as this cluster takes; try again later",
                limit=f"max_num_requests={limit}",
                is_overload=True,
            )
        if not self._registry.knows_model(message.model) and now - self._started_at > GRACE:
            return self._unknown_model(request.request_id, message.model)
        entry = Entry(Journal(request), message.client_id, message.model, waiting_since=now)
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
                self._displace(worker_id, request_ids, blame=error)
            case Leave(worker_id=worker_id):
                self.worker_gone(worker_id, error="")
            case Submit():
                refusal = self.submit(message)
                if refusal is not None:
                    self._link.send(message.client_id, refusal)
            case _:
                logger.warning("router: no use for a %s", type(message).__name__)

    def tick(self) -> list[str]:
        """Look after what nobody reports: silent workers and clients, and requests that wait for a target.

        Returns the clients that are given up.
        """
        now = self._clock()
        for worker_id in self._registry.silent():
            self.worker_gone(worker_id, error=f"no report for {self._config.worker_timeout:g} s")
        lost_clients = [i for i, seen in self._clients.items() if now - seen > CLIENT_TIMEOUT]
        for client_id in lost_clients:
            del self._clients[client_id]
            for request_id in [e.request_id for e in self._placement if e.client_id == client_id]:
                self._cancel(request_id)
        self._place_waiting()
        for entry in self._placement.waiting():
            if not self._registry.knows_model(entry.model):
                if now - self._started_at > GRACE:
                    self._refuse(self._unknown_model(entry.request_id, entry.model))
            elif now - entry.waiting_since > MAX_WAIT:
                self._fail(entry, f"no target for {entry.model!r} has come up within {MAX_WAIT:g} s {entry.last_error}")
        return lost_clients

    def client_alive(self, client_id: str, request_ids: Iterable[str]) -> list[str]:
        """Note a client's sign of life. Returns those of its requests that the router does not know."""
        self._clients[client_id] = self._clock()
        return [request_id for request_id in request_ids if self._placement.get(request_id) is None]

    def worker_gone(self, worker_id: str, error: str, pid: int | None = None) -> None:
        """Take a worker as dead: its requests go elsewhere. With no ``error`` it left in good order."""
        info = self._registry.mark_gone(worker_id, pid)
        if info is None:
            return
        if error:
            logger.warning("router: %s is gone: %s", worker_id, error)
        else:
            logger.info("router: %s has left", worker_id)
        if info.role == "target":
            blame = f"its target died ({error})" if error else ""
            self._displace(worker_id, tuple(self._placement.on(worker_id)), blame=blame)
        else:
            self._pair([e for e in self._placement if e.draft_id == worker_id])

    def stats(self) -> ClusterStats:
        """Return the cluster as the router sees it now."""
        return msgspec.structs.replace(
            self._registry.stats(lambda worker_id: len(self._placement.on(worker_id))),
            num_requests=len(self._placement),
            num_finished=self._num_finished,
            num_failed=self._num_failed,
            # Counted as tokens pass, not taken from reports, so that what a caller has received is in its figures.
            num_drafts=self._counters.num_drafts,
            num_draft_tokens=self._counters.num_draft_tokens,
            num_accepted_tokens=self._counters.num_accepted_tokens,
            num_accepted_tokens_per_pos=tuple(self._counters.accepted_per_position),
            num_generated_tokens=self._counters.num_generated_tokens,
            uptime=self._clock() - self._started_at,
        )

    def _place(self, entry: Entry) -> None:
        """Start a request on the least loaded target of its model; it waits where there is none to take it."""
        target_id = self._placement.choose_target(entry, self._registry.alive("target", entry.model))
        if target_id is None:
            return
        self._placement.attach(entry, target_id, now=self._clock())
        draft_id = self._placement.choose_draft(entry, self._registry.alive("draft", entry.model))
        self._placement.pair(entry, draft_id)
        self._link.send(target_id, Start(request=entry.journal.resume(), draft_id=draft_id))

    def _place_waiting(self) -> None:
        for entry in self._placement.waiting():
            self._place(entry)

    def _displace(self, worker_id: str, request_ids: Iterable[str], *, blame: str) -> None:
        """Take requests off a target and place them again. Each that is blamed once too often fails."""
        for request_id in request_ids:
            entry = self._placement.get(request_id)
            if entry is None or entry.target_id != worker_id:
                continue
            self._placement.detach(entry, now=self._clock())
            entry.num_deaths += bool(blame)
            entry.last_error = blame
            if entry.num_deaths >= MAX_NUM_DEATHS:
                self._fail(entry, f"failed {entry.num_deaths} times in a row: {blame}")
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
        fresh: defaultdict[str, list[Delta]] = defaultdict(list)
        was_suspect = False
        for delta in message.items:
            entry = self._placement.get(delta.request_id)
            if entry is None or entry.target_id != message.worker_id:
                if delta.finish_reason is None:
                    self._link.send(message.worker_id, Abort(request_id=delta.request_id))
                continue
            try:
                new = entry.journal.accept(delta)
            except Gap as gap:
                self._place_again(entry, str(gap))
                continue
            if new is None:
                continue
            self._counters.count_check(delta.num_drafted, delta.num_accepted)
            self._counters.num_generated_tokens += len(new.token_ids)
            fresh[entry.client_id].append(new)
            was_suspect |= entry.num_deaths > 0
            entry.num_deaths = 0
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
        elif is_new:
            self._pair([e for e in self._placement if not e.draft_id and e.model == info.pool])

    def _compare(self, target_id: str, held: set[str]) -> None:
        """Find what got lost between router and target: requests that it should have, and those it should not."""
        now = self._clock()
        placed = self._placement.on(target_id)
        for request_id in held - placed:
            self._link.send(target_id, Abort(request_id=request_id))
        for request_id in placed - held:
            entry = self._placement[request_id]
            entry.num_reports_without += now - entry.placed_at > self._config.report_interval
            if entry.num_reports_without >= MISSING_REPORTS:
                self._place_again(entry, "the target does not know of it")
        for request_id in placed & held:
            self._placement[request_id].num_reports_without = 0

    def _place_again(self, entry: Entry, why: str) -> None:
        logger.info("router: %s is placed again: %s", entry.request_id, why)
        self._link.send(entry.target_id, Abort(request_id=entry.request_id))
        self._placement.detach(entry, now=self._clock())
        self._place(entry)

    def _catch_up(self, entry: Entry, num_known: int) -> None:
        """Send a client the tokens that it does not have yet."""
        missing = tuple(entry.journal.token_ids[num_known:])
        if missing:
            delta = Delta(request_id=entry.request_id, start=num_known, token_ids=missing)
            self._link.send(entry.client_id, Deltas(worker_id=entry.target_id, items=(delta,)))

    def _cancel(self, request_id: str) -> None:
        entry = self._placement.get(request_id)
        if entry is not None:
            if entry.target_id:
                self._link.send(entry.target_id, Abort(request_id=request_id))
            self._end(entry, is_failed=False)

    def _refuse(self, message: Refuse) -> None:
        entry = self._placement.get(message.request_id)
        if entry is not None and entry.target_id == message.worker_id:
            self._link.send(entry.client_id, message)
            self._end(entry, is_failed=True)

    def _unknown_model(self, request_id: str, model: str) -> Refuse:
        names = ", ".join(self._registry.models()) or "none"
        return Refuse(
            request_id=request_id,
            error=f"no model {model!r} is served here; served: {names}",
            field="model",
            limit=names,
        )

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
        self._num_finished += not is_failed
        self._num_failed += is_failed
