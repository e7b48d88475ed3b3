"""What the router tells about the cluster: plain data for ``stats()``, ``slipstream status`` and ``/metrics``."""

import msgspec

from actors.config import Role
from actors.engine.request import EngineStats


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker says of itself when it registers.

    Attributes:
        worker_id: its name in the cluster, also the name of its Ray actor.
        pool: name of the pool it serves (for a target: the served model name).
        draft_pool: name of a draft's pool; empty for the default one, which goes by its model's name.
        model: path or hub id of its model.
        quantization: as loaded, in words (``nf4``, ``none``, ...).
        devices: devices that hold the model.
        pid, node: where it runs.
        num_blocks, block_size, max_model_len, vocab_size: bounds of its engine.
        is_encoder_decoder: whether its model reads prompts with an encoder.
    """

    worker_id: str
    role: Role
    pool: str
    model: str
    quantization: str = "none"
    dtype: str = ""
    devices: tuple[str, ...] = ()
    pid: int = 0
    node: str = ""
    num_blocks: int = 0
    block_size: int = 0
    max_model_len: int = 0
    vocab_size: int = 0
    is_encoder_decoder: bool = False
    notes: tuple[str, ...] = ()
    draft_pool: str = ""

    @property
    def draft_name(self) -> str:
        """What requests call this draft, as their ``assistant_model`` or their ``model``."""
        return self.draft_pool or default_draft_name(self.model, self.pool)

    @property
    def served_name(self) -> str:
        """The model name under which it can be asked."""
        return self.pool if self.role == "target" else self.draft_name


def default_draft_name(model: str, target: str) -> str:
    """Name of the default draft pool: its model's, unless that is the name of the target itself."""
    return model if model != target else "draft"


class DraftingStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker has done for drafting since it started.

    Attributes:
        num_rounds: forwards of a target that checked drafts.
        num_ahead_hits: times that a sequence's next drafts were at hand when its step had ended.
        num_lookup_hits: times that a drafter at the target, such as prompt lookup, had something to propose.
        num_branch_hits: times that a draft had gone on from its second choice, and that was what the target had.
        num_probes: questions to drafts that do not pay, to see whether they do by now.
        idle_time: seconds in which a draft had sequences but nothing to write, as their targets had yet to check.
    """

    num_rounds: int = 0
    num_ahead_hits: int = 0
    num_lookup_hits: int = 0
    num_branch_hits: int = 0
    num_probes: int = 0
    idle_time: float = 0.0


class StepTime(msgspec.Struct, frozen=True, array_like=True):
    """Forwards of an engine of ``knot`` tokens, or a few more: how many, their tokens, and the seconds they took."""

    knot: int
    num_steps: int = 0
    num_tokens: int = 0
    seconds: float = 0.0


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker as the router sees it now. ``last_report`` is in seconds before now.

    ``draft_wait_time`` is the seconds since it started in which a target stood still for its drafts, ``step_times``
    what its forwards have taken by the tokens in them.
    """

    info: WorkerInfo
    is_alive: bool = True
    is_draining: bool = False
    num_requests: int = 0
    last_report: float = 0.0
    draft_wait_time: float = 0.0
    drafting: DraftingStats = DraftingStats()
    stats: EngineStats = EngineStats()
    step_times: tuple[StepTime, ...] = ()


class ClusterStats(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster at one moment: its workers, what is in flight, and totals since the router started.

    ``drafting`` sums what workers have counted, those that are gone included. Bubbles are ``draft_wait_time``, the
    seconds in which targets stood still for drafts, and ``drafting.idle_time``, those in which drafts did for targets.
    """

    workers: tuple[WorkerStatus, ...] = ()
    num_requests: int = 0
    num_finished: int = 0
    num_failed: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_accepted_tokens_per_pos: tuple[int, ...] = ()
    num_generated_tokens: int = 0
    num_steps: int = 0
    draft_length: int = 0
    drafting: DraftingStats = DraftingStats()
    draft_wait_time: float = 0.0
    uptime: float = 0.0

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted over drafted tokens; None before anything was drafted."""
        return self.num_accepted_tokens / self.num_draft_tokens if self.num_draft_tokens else None
