"""A cluster whose steps take what they are told to, on a clock that only they move."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from actors.config import Role
from actors.engine.params import GenerationParams
from actors.engine.request import Delta, DraftingSummary, FinishReason, Request, TokenLogprobs
from actors.status import ClusterStats, DraftingStats, WorkerInfo, WorkerStatus
from actors.step_times import StepTimes
from cluster.bench.runs import Runner
from cluster.generation_client import GenerationClient
from tests.actors.fakes import FakeClock

MODEL = "toy"
PREFILL = 0.05
OTHER = 90  # what is written in place of a token that falls the other way


@dataclass
class TimedCluster(GenerationClient):
    """Writes 10, 11, 12, ...; the first ``num_right`` tokens of each draft are right.

    Attributes:
        verify: seconds of a target's forward by its tokens; ``draft_step`` those of a draft's.
        own_length: draft length where a request leaves it open; None where there is no draft.
        flips: (first id of the prompt, index): tokens that assisted runs write otherwise.
        margin: by which the token that is written is preferred to :data:`OTHER`.
        dtype: of the target, as it says.
    """

    verify: Callable[[int], float] = lambda num_tokens: 0.010
    draft_step: float = 0.002
    num_right: int = 2
    own_length: int | None = 2
    flips: frozenset[tuple[int, int]] = frozenset()
    margin: float = 0.25
    dtype: str = "bfloat16"
    error: str = ""
    clock: FakeClock = field(default_factory=FakeClock)
    requests: list[Request] = field(default_factory=list)
    is_closed: bool = False
    _steps: dict[Role, StepTimes] = field(default_factory=lambda: {"target": StepTimes(), "draft": StepTimes()})
    _waited: float = 0.0

    async def generate(self, request: Request, model: str) -> AsyncIterator[Delta]:
        self.requests.append(request)
        params = request.params
        own = self.own_length or 0
        k = own if params.num_assistant_tokens is None else params.num_assistant_tokens
        self._step("target", len(request.prompt_token_ids), PREFILL)
        num_emitted = 0
        while num_emitted < params.max_new_tokens:
            length = min(k, params.max_new_tokens - num_emitted - 1) if num_emitted else 0
            for _ in range(length):
                self._step("draft", 1, self.draft_step)
                self._waited += self.draft_step
            if num_emitted:
                self._step("target", length + 1, self.verify(length + 1))
            num_accepted = min(length, self.num_right)
            count = num_accepted + 1
            is_last = num_emitted + count >= params.max_new_tokens
            yield Delta(
                request_id=request.request_id,
                start=num_emitted,
                token_ids=tuple(self._token(request, i, k) for i in range(num_emitted, num_emitted + count)),
                num_drafted=length,
                num_accepted=num_accepted,
                logprobs=tuple(self._logprobs(request, i, k) for i in range(num_emitted, num_emitted + count)),
                finish_reason=self._reason(is_last),
                drafting=DraftingSummary(num_ahead_hits=1, wait_time=self._waited) if is_last and k else None,
                error=self.error,
            )
            num_emitted += count

    async def stats(self) -> ClusterStats:
        roles: tuple[Role, ...] = ("target",) if self.own_length is None else ("target", "draft")
        return ClusterStats(
            workers=tuple(
                WorkerStatus(
                    info=WorkerInfo(worker_id=role, role=role, pool=MODEL, model=MODEL, dtype=self.dtype),
                    step_times=self._steps[role].entries(),
                )
                for role in roles
            ),
            draft_wait_time=self._waited,
            drafting=DraftingStats(idle_time=0.0),
        )

    async def close(self) -> None:
        self.is_closed = True

    def runner(self) -> Runner:
        async def connect() -> GenerationClient:
            return self

        return Runner(connect, MODEL, self.clock, self.clock.advance)

    def _step(self, role: Role, num_tokens: int, seconds: float) -> None:
        self.clock.advance(seconds)
        self._steps[role].add(num_tokens, seconds)

    def _reason(self, is_last: bool) -> FinishReason | None:
        if self.error:
            return FinishReason.ERROR
        return FinishReason.LENGTH if is_last else None

    def _token(self, request: Request, index: int, k: int) -> int:
        is_flipped = k > 0 and (request.prompt_token_ids[0], index) in self.flips
        return OTHER if is_flipped else 10 + index

    def _logprobs(self, request: Request, index: int, k: int) -> TokenLogprobs:
        token = self._token(request, index, k)
        other = 10 + index if token == OTHER else OTHER
        return TokenLogprobs(-1.0, ((token, -1.0), (other, -1.0 - self.margin)))


def requests(num_new: int, num_prompts: int = 2) -> Callable[[int | None], list[Request]]:
    def make(k: int | None) -> list[Request]:
        params = GenerationParams(max_new_tokens=num_new, num_assistant_tokens=k)
        return [
            Request(request_id=f"r{prompt}-{k}", prompt_token_ids=(prompt, 1, 1, 1, 1, 1, 1), params=params)
            for prompt in range(num_prompts)
        ]

    return make
