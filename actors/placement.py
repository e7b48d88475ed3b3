"""Which request lies on which target, and which draft runs ahead of it: the router's table, with its sums kept."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Set
from dataclasses import dataclass, field

from actors.engine.request import Request
from actors.journal import Journal
from actors.pairing import Load, choose_draft, choose_target
from actors.suspicion import Suspicion


@dataclass
class Entry:
    """A request in flight. An empty ``target_id`` means that it waits for a target, an empty ``draft_id`` for none.

    Attributes:
        arrived_at, waiting_since, placed_at, retry_at, resent_at: times on the router's clock.
        is_again: it had been taken on by a target, or accepted by an earlier router; it is not turned away any more.
        held_by: the target that had it under an earlier router, until it is placed.
        num_reports_without: reports in a row in which its target did not name it.
        num_beats_without: signs of life in a row in which its client did not name it.
    """

    journal: Journal
    client_id: str
    model: str
    arrived_at: float
    waiting_since: float
    is_again: bool = False
    held_by: str = ""
    target_id: str = ""
    draft_id: str = ""
    placed_at: float = 0.0
    retry_at: float = -math.inf
    resent_at: float = -math.inf
    num_reports_without: int = 0
    num_beats_without: int = 0
    suspicion: Suspicion = field(default_factory=Suspicion)
    last_error: str = ""

    @property
    def request_id(self) -> str:
        """Id of the request."""
        return self.journal.request.request_id

    @property
    def num_tokens(self) -> int:
        """Tokens that the request may come to, its prompt included: what it weighs in a choice between targets."""
        request = self.journal.request
        return len(request.prompt_token_ids) + request.params.num_beams * request.params.max_new_tokens

    def resume(self, now: float) -> Request:
        """Return the request that continues behind what was emitted."""
        return self.journal.resume(elapsed=now - self.arrived_at)


class Placement:
    """Entries by request id, with the load of every worker."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._waiting: dict[str, None] = {}  # kept in order of arrival
        self._on: defaultdict[str, set[str]] = defaultdict(set)
        self._num_tokens: Counter[str] = Counter()
        self._num_pairs: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __getitem__(self, request_id: str) -> Entry:
        return self._entries[request_id]

    def get(self, request_id: str) -> Entry | None:
        """Return the entry of a request, or None."""
        return self._entries.get(request_id)

    def waiting(self) -> list[Entry]:
        """Return the entries that have no target, in order of arrival."""
        return [self._entries[request_id] for request_id in self._waiting]

    def on(self, worker_id: str) -> Set[str]:
        """Return the ids of requests that lie on a target, or that a draft runs ahead of. Not to be changed."""
        return self._on.get(worker_id, frozenset())

    def of_client(self, client_id: str) -> list[Entry]:
        """Return the requests of a client."""
        return [entry for entry in self if entry.client_id == client_id]

    def queued(self, target_id: str, num_waiting: int) -> list[Entry]:
        """Return the requests on a target that are likely to queue there, given how many do: the newest, unbegun."""
        unbegun = [entry for r in self.on(target_id) if not (entry := self._entries[r]).suspicion.num_tokens]
        unbegun.sort(key=lambda entry: entry.placed_at)
        return unbegun[max(0, len(unbegun) - num_waiting) :]

    def surplus(self, target_id: str, num_waiting: int, others: Collection[str]) -> list[Entry]:
        """Return the newest of the requests that queue on a target, as many as even it out with the emptiest other."""
        queued = self.queued(target_id, num_waiting)
        if not others:
            return []
        num_moved = (len(self.on(target_id)) - min(len(self.on(other)) for other in others)) // 2
        return queued[max(0, len(queued) - max(0, num_moved)) :]

    def suspects(self, target_id: str, num_waiting: int) -> list[Entry]:
        """Return the requests that may be to blame for what happened to their target.

        Those that were under suspicion before, where there are any, or else all that did not queue, and of which the
        target had heard.
        """
        entries = [self._entries[request_id] for request_id in self.on(target_id)]
        queued = {entry.request_id for entry in self.queued(target_id, num_waiting)}
        running = [e for e in entries if e.request_id not in queued and not e.num_reports_without]
        return [entry for entry in entries if entry.suspicion.is_suspect] or running

    def add(self, entry: Entry) -> None:
        """Take in a request that has no target yet."""
        self._entries[entry.request_id] = entry
        self._waiting[entry.request_id] = None

    def remove(self, entry: Entry) -> None:
        """Forget a request."""
        self._release(entry)
        self._waiting.pop(entry.request_id, None)
        del self._entries[entry.request_id]

    def attach(self, entry: Entry, target_id: str, now: float) -> None:
        """Put a waiting request on a target."""
        del self._waiting[entry.request_id]
        entry.target_id, entry.placed_at, entry.num_reports_without, entry.held_by = target_id, now, 0, ""
        entry.suspicion.placed()
        self._on[target_id].add(entry.request_id)
        self._num_tokens[target_id] += entry.num_tokens

    def detach(self, entry: Entry, now: float) -> None:
        """Take a request off its target and its draft; it waits again."""
        self._release(entry)
        entry.waiting_since = now
        self._waiting[entry.request_id] = None

    def pair(self, entry: Entry, draft_id: str) -> None:
        """Change the draft that runs ahead of a placed request."""
        if entry.draft_id:
            self._discard(entry.draft_id, entry)
            self._num_pairs[entry.target_id][entry.draft_id] -= 1
        entry.draft_id = draft_id
        if draft_id:
            self._on[draft_id].add(entry.request_id)
            self._num_pairs[entry.target_id][draft_id] += 1

    def choose_target(self, entry: Entry, target_ids: Iterable[str]) -> str | None:
        """Return the target to take a request. A suspect gets one that holds no other suspect, or none."""
        if entry.suspicion.is_suspect:
            target_ids = [i for i in target_ids if not any(self._entries[r].suspicion.is_suspect for r in self.on(i))]
        return choose_target(self._load(target_id) for target_id in target_ids)

    def choose_draft(self, entry: Entry, draft_ids: Iterable[str]) -> str:
        """Return the draft to run ahead of a placed request; empty where there is none, or it wants none."""
        params = entry.journal.request.params
        if params.num_assistant_tokens == 0 or params.has_beams:
            return ""
        return choose_draft((self._load(i) for i in draft_ids), self._num_pairs[entry.target_id]) or ""

    def _load(self, worker_id: str) -> Load:
        return Load(worker_id, len(self.on(worker_id)), self._num_tokens[worker_id])

    def _release(self, entry: Entry) -> None:
        self.pair(entry, "")
        if entry.target_id:
            self._discard(entry.target_id, entry)
            self._num_tokens[entry.target_id] -= entry.num_tokens
            entry.target_id = ""

    def _discard(self, worker_id: str, entry: Entry) -> None:
        """Take a request off a worker, whose own entry goes with its last request."""
        self._on[worker_id].discard(entry.request_id)
        if not self._on[worker_id]:
            del self._on[worker_id]
