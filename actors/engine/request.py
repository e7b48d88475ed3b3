"""A request and what comes back from it: the journal's entries, as plain data."""

import enum

import msgspec

from actors.engine.params import GenerationParams


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is needed to run, or to continue, one sequence anywhere (DESIGN, rule 1).

    Attributes:
        request_id: unique in the cluster.
        prompt_token_ids: the prompt, at least one id.
        params: what was asked for, its seed included.
        emitted_token_ids: tokens already emitted for it elsewhere; generation continues behind them.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: GenerationParams
    emitted_token_ids: tuple[int, ...] = ()


class FinishReason(enum.Enum):
    """Why a sequence ended. OpenAI's words, and two of ours."""

    STOP = "stop"  # an eos token or a stop string
    LENGTH = "length"  # max_new_tokens, or the model's context
    TIME = "time"  # max_time
    ABORT = "abort"  # the caller took it back
    ERROR = "error"  # this sequence failed; see Delta.error


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities at one position: of an emitted token after all processors, of a prompt's token before any.

    Attributes:
        logprob: of the token that stands there.
        top: the most probable (token id, log-probability) pairs, best first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class DraftingSummary(msgspec.Struct, frozen=True, array_like=True):
    """What the last target of a sequence knows of its drafting; see :class:`actors.request_stats.RequestStats`."""

    num_ahead_hits: int = 0
    num_branch_hits: int = 0
    wait_time: float = 0.0


class Beam(msgspec.Struct, frozen=True, array_like=True):
    """One sequence that a beam search has found.

    Attributes:
        token_ids: behind the prompt.
        score: sum of its log-probabilities over its length to the power of ``length_penalty``, as in transformers'
            ``sequences_scores``.
        beam_indices: for each token the beam, 0 to num_beams - 1, that it was found behind.
        finish_reason: why it ends.
    """

    token_ids: tuple[int, ...]
    score: float
    beam_indices: tuple[int, ...]
    finish_reason: FinishReason


class Delta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """New tokens of one sequence from one step, or word of a beam search.

    Attributes:
        request_id: whose tokens these are.
        start: index of the first of them among the *emitted* tokens of the request (0 is the first token behind the
            prompt). Absolute, so that a delta which arrives twice does no harm.
        token_ids: the new tokens; empty only in a delta that ends a sequence.
        num_drafted: draft tokens that this step checked.
        num_accepted: how many of token_ids, from the first on, were drafted; the rest are the target's own.
        logprobs: one entry a token where the request asked for them.
        prompt_logprobs: one entry for every prompt token but the first, where the request asked for them; it comes with
            the first emitted token.
        finish_reason: set in the last delta of a sequence.
        drafting: comes with the last delta of a sequence for which a draft wrote.
        error: why, in words, where finish_reason is ERROR.
        beams: what a beam search has found, best first; it comes with the last delta, which has no ``token_ids``.
        num_searched: positions that a beam search has passed since its last sign of life. Says only that it lives.
    """

    request_id: str
    start: int
    token_ids: tuple[int, ...] = ()
    num_drafted: int = 0
    num_accepted: int = 0
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: FinishReason | None = None
    drafting: DraftingSummary | None = None
    error: str = ""
    beams: tuple[Beam, ...] | None = None
    num_searched: int = 0


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one engine since it started, and gauges of this moment. Times in seconds.

    ``num_queued_tokens`` is the tokens that are known but not computed yet: what waits for a forward.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_parked: int = 0
    num_queued_tokens: int = 0
    num_blocks: int = 0
    num_free_blocks: int = 0
    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_computed_tokens: int = 0
    num_prefix_hit_tokens: int = 0
    num_preemptions: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_accepted_tokens_per_pos: tuple[int, ...] = ()
    step_time: float = 0.0
    forward_time: float = 0.0

    @property
    def kv_use(self) -> float:
        """Share of KV blocks that sequences hold; 0 where there are none."""
        return 1.0 - self.num_free_blocks / self.num_blocks if self.num_blocks else 0.0
