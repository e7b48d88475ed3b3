"""What actors say to one another: small, absolute and repeatable (DESIGN, rule 4).

Only token ids with absolute positions travel, never tensors. ``start`` counts from the first prompt token in
:class:`Extend` and :class:`Proposal` (a draft knows one sequence of ids, prompt and emitted alike), and from the first
emitted token in :class:`actors.engine.request.Delta`. A receiver truncates to the common prefix and goes on.

::

    client ──Submit/Cancel──> router ──Start/Abort/Pair/Greet/SetDraftLength──> target ──Extend/Close──> draft
    client <─Accept/Deltas/Refuse─ router <──Deltas/Refuse/Crash/Report/Leave── target <──Proposals────  draft
                              router <───────────────────────────────────────────────────Report/Leave─── draft
"""

import msgspec

from actors.engine.params import GenerationParams
from actors.engine.request import Delta, EngineStats, Request
from actors.status import DraftingStats, StepTime, WorkerInfo


class Submit(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A client hands a request to the router; ``model`` names the target pool, ``client_id`` where deltas go.

    ``is_again`` says that a router has accepted it before, ``target_id`` which target sent the last of its tokens.
    """

    client_id: str
    model: str
    request: Request
    is_again: bool = False
    target_id: str = ""


class Accept(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The router has taken a request in; it answers a :class:`Submit` that came as a message, as a Refuse does."""

    request_id: str


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A client takes a request back."""

    request_id: str


class Refuse(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """A request that was never run, in the words of :class:`actors.engine.errors.RequestError`.

    ``is_overload`` says that the same request may be taken later.
    """

    request_id: str
    error: str
    field: str = ""
    limit: str = ""
    is_overload: bool = False
    worker_id: str = ""


class Start(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The router places a request on a target; ``draft_id`` is the draft that runs ahead of it, empty for none."""

    request: Request
    draft_id: str = ""


class Abort(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The router ends a request on a target."""

    request_id: str


class Pair(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The router changes which draft runs ahead of some sequences; an empty ``draft_id`` means plain decoding."""

    request_ids: tuple[str, ...]
    draft_id: str = ""


class Greet(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The router hears from a target that it does not know, and asks it to report at once."""


class SetDraftLength(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The router sets a target's draft length for sequences that do not pin their own; 0 turns drafting off."""

    num_draft_tokens: int


class ExtendItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sequence's confirmed ids from ``start`` on, and how many to propose behind them.

    The draft answers once it has written ``num_draft_tokens``, then goes on for ``num_ahead`` more and tells of them in
    pieces, as if all that it wrote were right. Where it has time to spare it also goes on from its second choice at the
    first ``num_branches`` positions, which is what the target will likely have instead. ``params`` and
    ``num_prompt_tokens`` come with the first message about a sequence (``start`` 0).
    """

    request_id: str
    start: int
    token_ids: tuple[int, ...]
    num_draft_tokens: int
    num_ahead: int = 0
    num_branches: int = 0
    num_prompt_tokens: int = 0
    params: GenerationParams | None = None


class Extend(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A target tells a draft what is confirmed, for all its sequences of one step at once."""

    target_id: str
    items: tuple[ExtendItem, ...]


class Close(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A target tells a draft that sequences have ended."""

    request_ids: tuple[str, ...]


class Proposal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Drafted ids that follow position ``start`` - 1 of a sequence. Empty ids: the draft cannot serve this one now.

    ``start`` is as far as the draft knows the sequence as confirmed, so that what it wrote on an assumption that did
    not hold shows as different from what was emitted. ``fork`` is the position of the one id that was the draft's
    second choice, 0 where all are its first.
    """

    request_id: str
    start: int
    token_ids: tuple[int, ...]
    fork: int = 0


class Proposals(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A draft answers; ``unknown`` names sequences that it must be told from the start.

    ``step_time`` is the seconds that its forwards take at present, 0 where it does not know.
    """

    draft_id: str
    items: tuple[Proposal, ...] = ()
    unknown: tuple[str, ...] = ()
    step_time: float = 0.0


class Deltas(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All new tokens of one step of one target."""

    worker_id: str
    items: tuple[Delta, ...]


class Crash(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A target's forward failed as a whole: it has dropped ``request_ids``, one of which may be to blame."""

    worker_id: str
    request_ids: tuple[str, ...]
    error: str


class Report(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Who a worker is, its counters and what it holds, sent on a beat.

    The first one registers the worker, and its absence is how the router sees that a worker is gone. ``request_ids``
    are the target's unfinished requests, by which the router finds what got lost on the way. A report that is sent
    again while a forward takes long says only that the worker lives (``is_repeat``). A worker that drains takes nothing
    new. ``draft_wait_time`` is the seconds since it started in which a target had sequences, but all of them waited for
    drafts, ``step_times`` what its forwards have taken since then.
    """

    info: WorkerInfo
    stats: EngineStats
    request_ids: tuple[str, ...] = ()
    draft_length: int = 0
    is_repeat: bool = False
    is_draining: bool = False
    draft_wait_time: float = 0.0
    drafting: DraftingStats = DraftingStats()
    step_times: tuple[StepTime, ...] = ()


class Leave(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker ends in good order: what it was running goes elsewhere, and nothing is to blame for it."""

    worker_id: str


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Asks a worker's loop to take nothing new, and to leave once it holds nothing any more."""


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Ends a worker's loop after its current step."""


Message = (
    Submit
    | Accept
    | Cancel
    | Refuse
    | Start
    | Abort
    | Pair
    | Greet
    | SetDraftLength
    | Extend
    | Close
    | Proposals
    | Deltas
    | Crash
    | Report
    | Leave
    | Drain
    | Stop
)
