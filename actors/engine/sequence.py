"""One sequence of token ids and how far the model has computed it."""

import enum
from collections.abc import Sequence as Seq

from actors.engine.blocks import BlockTable, Digest
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from actors.engine.sampler import SamplerState
from actors.engine.stopping import StopState


class Status(enum.Enum):
    """Where a sequence stands with the scheduler."""

    WAITING = enum.auto()  # holds no blocks
    RUNNING = enum.auto()  # holds blocks, takes part in steps
    PARKED = enum.auto()  # a draft sequence at its goal; holds blocks as long as nobody needs them


class Sequence:
    """The ids of one sequence and its place in the engine.

    ::

        |<------- num_computed_tokens ------->|<-- to compute -->|
        |<- num_prompt_tokens ->|<-- emitted -->|<---- drafts ---->|
        |<------------ token_ids ------------->|

    Attributes:
        token_ids: prompt and emitted ids.
        drafts: proposed ids behind them, to be checked in the next step.
        num_computed_tokens: how many leading ids have their keys and values in the cache.
        num_final_tokens: how many leading ids will never change, so that their blocks may be published.
        goal: number of ids at which a draft sequence parks; None for a target sequence.
        is_held: kept out of steps until a proposal comes.
    """

    def __init__(self, request: Request, sampler: SamplerState, stopping: StopState, *, is_draft: bool) -> None:
        self.request_id = request.request_id
        self.params: GenerationParams = request.params
        self.token_ids: list[int] = [*request.prompt_token_ids, *request.emitted_token_ids]
        self.num_prompt_tokens = len(request.prompt_token_ids)
        self.sampler = sampler
        self.stopping = stopping
        self.drafts: list[int] = []
        self.num_computed_tokens = 0
        self.num_final_tokens = len(self.token_ids)
        self.goal: int | None = len(self.token_ids) if is_draft else None
        self.is_held = False
        self.status = Status.PARKED if is_draft else Status.WAITING
        self.table = BlockTable()
        self.digests: list[Digest] = []

    @property
    def is_draft(self) -> bool:
        """Whether this sequence only proposes."""
        return self.goal is not None

    @property
    def num_tokens(self) -> int:
        """Ids that are known, drafts not counted."""
        return len(self.token_ids)

    @property
    def num_emitted_tokens(self) -> int:
        """Ids behind the prompt."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def max_num_tokens(self) -> int:
        """Length that this sequence may reach by its own parameters."""
        return self.num_prompt_tokens + self.params.max_new_tokens

    @property
    def num_tokens_to_compute(self) -> int:
        """Ids, drafts included, that lack keys and values."""
        return len(self.token_ids) + len(self.drafts) - self.num_computed_tokens

    def ids(self, start: int, stop: int) -> Seq[int]:
        """Ids and drafts of positions ``start`` to ``stop``."""
        if stop <= len(self.token_ids):
            return self.token_ids[start:stop]
        return self.token_ids[start:] + self.drafts[max(0, start - len(self.token_ids)) : stop - len(self.token_ids)]
