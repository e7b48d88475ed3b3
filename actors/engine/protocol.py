"""What the loops of the actors need of an engine. ``Engine`` fulfils it with a model, fakes and simulations without."""

from collections.abc import Sequence
from typing import Protocol

from actors.engine.request import Delta, EngineStats, Request


class TokenEngine(Protocol):
    """Extends many sequences by tokens, one :meth:`step` (one forward) at a time. Single-threaded: one owner calls it.

    A *target* sequence (:meth:`add`) runs to its end. A *draft* sequence (:meth:`open`) runs only towards the goal that
    :meth:`extend` sets, then parks with its KV cache kept, so that the next ``extend`` computes only what is new.

    Attributes:
        num_step_tokens: tokens that the last step computed.
    """

    num_step_tokens: int

    def add(self, request: Request) -> None:
        """Queue a request. Raises RequestError (duplicate id, over a limit, bad parameter); the engine is unchanged."""

    def propose(self, request_id: str, start: int, token_ids: Sequence[int]) -> None:
        """Attach drafted ids for positions ``start``... (counted from the first prompt token) to a target sequence.

        The part that still lies ahead of the sequence is checked in its next step; stale, contradicted or unknown
        proposals are dropped without a word.
        """

    def hold(self, request_id: str) -> None:
        """Keep a target sequence out of steps (it waits for a proposal) until :meth:`propose` or :meth:`release`."""

    def release(self, request_id: str) -> None:
        """Let a held sequence run on without a proposal. Unknown ids are ignored."""

    def abort(self, request_id: str) -> None:
        """Drop a sequence of either kind and free its blocks, with no further delta. Unknown ids are ignored."""

    def open(self, request: Request) -> None:
        """Begin a draft sequence (prompt and emitted ids of the request), parked. An id that exists is replaced."""

    def extend(
        self, request_id: str, start: int, token_ids: Sequence[int], num_new_tokens: int, num_ahead: int = 0
    ) -> None:
        """Correct a draft sequence to ``[:start] + token_ids`` and set it running for ``num_new_tokens`` more.

        It then runs ahead for ``num_ahead`` tokens more. Keeps what it computed of the common prefix, and what it wrote
        itself behind it where all of ``token_ids`` agrees. Raises KeyError for an unknown id or where ``start`` lies
        beyond what is known of the sequence: the caller must be told from the start.
        """

    def fork(self, request_id: str, fork_id: str, position: int, num_new_tokens: int) -> int | None:
        """Begin another draft sequence, ``fork_id``: the ids of one before ``position``, and its second choice there.

        It runs for ``num_new_tokens`` behind that, with a delta in each step. Second choices are known of positions
        that the sequence wrote itself since an ``extend`` with ``num_ahead``. Returns that choice, or None where there
        is none.
        """

    def step(self) -> list[Delta]:
        """Run one forward over what is ready and return what came of it; an empty list if nothing was ready.

        A target sequence yields a delta in each step that emits tokens. A draft sequence yields a delta, with all
        tokens that are not confirmed, in the step that reaches its goal (or an eos token, or the end of its context),
        and in each step that it runs ahead from there.
        A sequence that fails yields a delta with ``FinishReason.ERROR``; others are not touched.
        """

    def has_work(self) -> bool:
        """Whether :meth:`step` would compute something now (held and parked sequences do not count)."""

    def num_unfinished(self) -> int:
        """Target sequences that have not ended, held ones included."""

    def stats(self) -> EngineStats:
        """Counters and gauges."""
