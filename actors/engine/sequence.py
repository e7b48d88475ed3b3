"""One sequence of token ids and how far the model has computed it."""

import enum
from collections.abc import Sequence as Seq

from actors.engine.blocks import BlockTable, Digest
from actors.engine.grammar_state import GrammarState
from actors.engine.params import GenerationParams
from actors.engine.request import Request, TokenLogprobs
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
        num_to_answer: number of ids from which on a draft sequence says what it has.
        second_choices: of a draft sequence that runs ahead, by position; what it would else have written.
        is_held: kept out of steps until a proposal comes.
        prompt_logprobs: of the prompt's tokens from the second on, as far as they are known; None where nobody asks, or
            asks no longer because they went out with the first emitted token.
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
        self.num_to_answer = 0
        self.second_choices: dict[int, int] | None = None
        self.is_held = False
        self.status = Status.PARKED if is_draft else Status.WAITING
        self.table = BlockTable()
        self.digests: list[Digest] = []
        is_asked = self.params.prompt_logprobs is not None and not request.emitted_token_ids and not is_draft
        self.prompt_logprobs: list[TokenLogprobs] | None = [] if is_asked else None

    @property
    def is_draft(self) -> bool:
        """Whether this sequence only proposes."""
        return self.goal is not None

    @property
    def grammar(self) -> GrammarState | None:
        """Where it stands in its grammar, if it has one."""
        return self.sampler.grammar

    @property
    def is_compiled(self) -> bool:
        """Whether it has no grammar that it would have to wait for."""
        return self.grammar is None or self.grammar.is_ready

    @property
    def can_run(self) -> bool:
        """Whether it may take part in steps."""
        return not self.is_held and self.is_compiled

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

    @property
    def num_missing_tokens(self) -> int:
        """Ids, drafts not counted, that lack keys and values."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def members(self) -> list["Sequence"]:
        """The sequences that are scheduled as one with it: itself alone."""
        return [self]

    @property
    def num_reusable_tokens(self) -> int:
        """Leading ids whose keys and values may be another sequence's, since no logits of theirs are wanted."""
        known = self.num_tokens if self.prompt_logprobs is None else len(self.prompt_logprobs)
        return min(known, self.num_tokens - 1, self.num_final_tokens)

    def num_prompt_logits(self, start: int, stop: int) -> int:
        """For how many of the positions ``start`` to ``stop`` the logits are wanted for the prompt's sake.

        They are the last ones, but for those that a token is sampled from.
        """
        if self.prompt_logprobs is None:
            return 0
        return max(0, min(stop, self.num_prompt_tokens - 1) - max(start, len(self.prompt_logprobs)))

    def take_prompt_logprobs(self) -> tuple[TokenLogprobs, ...] | None:
        """The prompt's log-probabilities, once."""
        taken, self.prompt_logprobs = self.prompt_logprobs, None
        return None if taken is None else tuple(taken)

    def ids(self, start: int, stop: int) -> Seq[int]:
        """Ids and drafts of positions ``start`` to ``stop``."""
        if stop <= len(self.token_ids):
            return self.token_ids[start:stop]
        return self.token_ids[start:] + self.drafts[max(0, start - len(self.token_ids)) : stop - len(self.token_ids)]

    def fork(self, request_id: str, position: int, token_id: int) -> "Sequence":
        """Another draft sequence: the ids of this one before ``position``, and another one there."""
        num_prompt = self.num_prompt_tokens
        request = Request(
            request_id=request_id,
            prompt_token_ids=tuple(self.token_ids[:num_prompt]),
            params=self.params,
            emitted_token_ids=(*self.token_ids[num_prompt:position], token_id),
        )
        return Sequence(request, self.sampler, self.stopping, is_draft=True)
