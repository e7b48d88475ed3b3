"""A cluster for the door's tests: a toy model that recites a text, behind the same seam as the real one."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from litestar import Litestar
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from actors.config import Role
from actors.engine.declared_call import DeclaredCall, PlainOutput
from actors.engine.errors import GenerationError, OverloadedError
from actors.engine.request import Beam, Delta, DraftingSummary, EngineStats, FinishReason, Request, TokenLogprobs
from actors.native_client import Result
from actors.native_job import Output, Tokens
from actors.status import ClusterStats, DraftingStats, WorkerInfo, WorkerStatus
from cluster.config import LimitsConfig
from serve_app.chat_template import ChatTemplate
from serve_app.cluster_view import Capacity
from serve_app.gateway import Gateway
from serve_app.keys import Keys
from serve_app.tokenizer import FastTokenizer
from serve_app.web import build_web_app

MODEL, DRAFT = "toy", "tiny"
LIMITS = LimitsConfig()
TEXT = " The ship went down the river at night, and nobody saw it. “Où est l’été?” they said — 日本 🙂. The end."
MAX_MODEL_LEN = 256
EOS = "<eos>"


def make_tokenizer() -> FastTokenizer:
    """A byte-level BPE of few merges, so that characters and words spread over tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return FastTokenizer(tokenizer)


TOKENIZER = make_tokenizer()
CHAT_TEMPLATE = ChatTemplate(
    "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}"
    "{% if mood is defined %}({{ mood }}){% endif %}{% if add_generation_prompt %}[assistant]{% endif %}",
    {"eos_token": EOS},
)
VOCAB_SIZE = 290


@dataclass
class FakeClient:
    """Recites ``text``, ``num_per_step`` tokens a step, all but the last of a step drafted.

    Attributes:
        pause: seconds before each step.
        is_overloaded, is_router_gone, error: refuse each request; know nothing; fail after the first step.
        num_others: requests in flight that came through other doors.
        calls: those of transformers' own code.
        running, taken_back: ids of requests that run now, and of those whose caller went away.
    """

    text: str = TEXT
    num_per_step: int = 4
    pause: float = 0.0
    is_ready: bool = True
    is_overloaded: bool = False
    is_router_gone: bool = False
    error: str = ""
    num_others: int = 0
    requests: list[Request] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    calls: list[DeclaredCall] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    taken_back: list[str] = field(default_factory=list)
    is_closed: bool = False

    async def generate(self, request: Request, model: str) -> AsyncIterator[Delta]:
        """See :class:`cluster.generation_client.GenerationClient`."""
        if self.is_overloaded:
            raise OverloadedError("too many requests in flight, the limit is 2", limit="2")
        self.requests.append(request)
        self.models.append(model)
        self.running.add(request.request_id)
        is_finished = False
        try:
            async for delta in self._deltas(request):
                is_finished = delta.finish_reason is not None
                yield delta
        finally:
            self.running.discard(request.request_id)
            if not is_finished:
                self.taken_back.append(request.request_id)

    async def run_native(self, call: Any, model: str) -> AsyncIterator[Tokens | Result]:
        """See :class:`cluster.generation_client.ModelClient`. Recites in every row, with the tensors asked for."""
        if self.error:
            raise GenerationError(self.error)
        self.calls.append(call)
        is_finished = False
        try:
            ids = TOKENIZER.encode(self.text)[: call.fields["max_new_tokens"]]
            for token_ids in [call.prompts[0], *((token_id,) for token_id in ids)] if call.is_streamed else ():
                yield Tokens(token_ids)
                await asyncio.sleep(self.pause)
            await asyncio.sleep(self.pause)
            yield _recited(call, ids)
            is_finished = True
        finally:
            if not is_finished:
                self.taken_back.append("call")

    async def stats(self) -> ClusterStats:
        """See :class:`cluster.generation_client.GenerationClient`."""
        if self.is_router_gone:
            raise ConnectionError("no router")
        workers = (_worker("target"), _worker("draft")) if self.is_ready else ()
        return ClusterStats(
            workers=workers,
            num_requests=len(self.running) + self.num_others,
            num_drafts=10,
            num_draft_tokens=40,
            num_accepted_tokens=30,
            num_accepted_tokens_per_pos=(10, 9, 7, 4),
            num_generated_tokens=50,
            drafting=DraftingStats(num_rounds=9, num_ahead_hits=6, num_branch_hits=2, num_probes=1, idle_time=0.25),
            draft_wait_time=1.5,
        )

    async def close(self) -> None:
        """See :class:`cluster.generation_client.GenerationClient`."""
        self.is_closed = True

    async def _deltas(self, request: Request) -> AsyncIterator[Delta]:
        params = request.params
        ids = TOKENIZER.encode(self.text)
        if params.has_beams:
            found = tuple(ids[: params.max_new_tokens])
            beams = tuple(
                Beam(found, -float(at), (0,) * len(found), FinishReason.LENGTH) for at in range(params.num_beams)
            )
            yield Delta(request_id=request.request_id, start=0, beams=beams, finish_reason=FinishReason.LENGTH)
            return
        ends_by_itself = len(ids) <= params.max_new_tokens
        ids = ids[: params.max_new_tokens]
        for start in range(0, len(ids), self.num_per_step):
            await asyncio.sleep(self.pause)
            if self.error and start:
                yield Delta(
                    request_id=request.request_id, start=start, finish_reason=FinishReason.ERROR, error=self.error
                )
                return
            step = tuple(ids[start : start + self.num_per_step])
            is_last = start + len(step) == len(ids)
            reason = FinishReason.STOP if ends_by_itself else FinishReason.LENGTH
            is_drafted = params.num_assistant_tokens != 0
            yield Delta(
                request_id=request.request_id,
                start=start,
                token_ids=step,
                num_drafted=self.num_per_step if is_drafted else 0,
                num_accepted=len(step) - 1 if is_drafted else 0,
                logprobs=_logprobs(step) if params.logprobs is not None else None,
                prompt_logprobs=_logprobs(request.prompt_token_ids[1:])
                if params.prompt_logprobs is not None and start == 0
                else None,
                finish_reason=reason if is_last else None,
                drafting=DraftingSummary(3, 1, 0.5) if is_last and is_drafted else None,
            )


def _recited(call: DeclaredCall, ids: Sequence[int]) -> Result:
    """The output of a call whose every row is ``ids``."""
    count = len(call.prompts) * call.fields.get("num_return_sequences", 1)
    width = max(map(len, call.prompts))
    rows = [[0] * (width - len(prompt)) + [*prompt, *ids] for prompt in call.prompts]
    small: dict[str, Any] = {"sequences": np.repeat(np.array(rows, np.int64), count // len(rows), axis=0)}
    if call.fields.get("num_beams", 1) > 1 and call.fields.get("output_scores"):
        small["sequences_scores"] = np.linspace(-0.5, -1.0, count, dtype=np.float32)
    large = {
        name: tuple(np.full((count, VOCAB_SIZE), step, np.float32) for step in range(len(ids)))
        for name in ("scores", "logits")
        if call.fields.get(f"output_{name}")
    }
    return Result(Output(kind=PlainOutput, small=small, large=tuple(large)), large.__getitem__)


def make_gateway(
    client: FakeClient,
    limits: LimitsConfig,
    defaults: Mapping[str, Any] | None = None,
    capacity: Capacity | None = None,
) -> Gateway:
    """A gateway onto a fake cluster."""
    defaults = {"eos_token_id": 0, **(defaults or {})}
    gateway = Gateway(
        client, TOKENIZER, name=MODEL, limits=limits, defaults=defaults, capacity=capacity, chat_template=CHAT_TEMPLATE
    )
    gateway.serve(DRAFT, TOKENIZER, defaults=defaults, chat_template=None)
    return gateway


def _logprobs(token_ids: Sequence[int]) -> tuple[TokenLogprobs, ...]:
    return tuple(TokenLogprobs(-0.5, ((token_id, -0.5), (1, -2.0))) for token_id in token_ids)


def _worker(role: Role) -> WorkerStatus:
    info = WorkerInfo(
        worker_id=f"{role}-0",
        role=role,
        pool=MODEL,
        model=MODEL if role == "target" else DRAFT,
        max_model_len=MAX_MODEL_LEN,
        vocab_size=VOCAB_SIZE,
    )
    stats = EngineStats(num_running=1, num_waiting=2, num_blocks=10, num_free_blocks=4, num_prompt_tokens=7)
    return WorkerStatus(info=info, stats=stats)


def make_app(
    client: FakeClient,
    limits: LimitsConfig = LIMITS,
    defaults: Mapping[str, Any] | None = None,
    *,
    capacity: Capacity | None = None,
    keys: Keys | None = None,
) -> Litestar:
    """The web application onto a fake cluster."""

    async def connect() -> Gateway:
        return make_gateway(client, limits, defaults, capacity)

    return build_web_app(connect, limits, keys)
