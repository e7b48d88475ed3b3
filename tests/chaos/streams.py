"""Streams of every kind, run in a crowd that is never empty, each with the times at which its tokens came."""

import asyncio
import itertools
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from actors.engine.grammar import JsonSchemaGrammar
from actors.engine.params import GenerationParams
from actors.engine.request import FinishReason, Request
from cluster.generation_client import GenerationClient

PROMPTS = (
    "It was a dark night and the rain came down upon the roof",
    "She looked at him for a long while before she spoke",
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 20, "maxLength": 60},
        "year": {"type": "integer", "minimum": 1700, "maximum": 1999},
        "people": {
            "type": "array",
            "minItems": 6,
            "maxItems": 8,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 5, "maxLength": 30},
                    "role": {"enum": ["hero", "villain", "bystander"]},
                    "is_alive": {"type": "boolean"},
                },
                "required": ["name", "role", "is_alive"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["title", "year", "people"],
    "additionalProperties": False,
}
SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 0.9, "top_p": 0.95}
GRAMMAR: dict[str, Any] = {"grammar": JsonSchemaGrammar(schema=SCHEMA)}
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": SAMPLED,
    "json_greedy": GRAMMAR,
    "json_sampled": {**SAMPLED, **GRAMMAR},
    "penalized": {
        "repetition_penalty": 1.2,
        "stop_strings": ("the end of the", "once upon"),
        "no_repeat_ngram_size": 4,
    },
    "penalized_sampled": {**SAMPLED, "repetition_penalty": 1.1, "stop_strings": ("never again",), "top_k": 40},
    "logprobs_sampled": {**SAMPLED, "logprobs": 2},
}


@dataclass
class Stream:
    """One request and what came of it.

    Attributes:
        times: when each delta came, in seconds, behind the time of the start.
    """

    case: str
    token_ids: list[int] = field(default_factory=list)
    num_logprobs: int = 0
    times: list[float] = field(default_factory=list)
    reason: FinishReason | None = None
    error: str = ""

    @property
    def outcome(self) -> tuple[tuple[int, ...], FinishReason | None, int]:
        """What must not depend on who died."""
        return tuple(self.token_ids), self.reason, self.num_logprobs

    @property
    def is_open(self) -> bool:
        """Whether more is to come."""
        return self.reason is None and not self.error

    @property
    def longest_gap(self) -> float:
        """Seconds of the longest silence."""
        return max((after - before for before, after in itertools.pairwise(self.times)), default=0.0)

    def gap_at(self, moment: float, since: float) -> float | None:
        """Seconds of the silence around a moment; None where the stream was silent ever since ``since``, or ended."""
        after = next((at for at in self.times if at > moment), None)
        before = max((at for at in self.times if at <= moment), default=None)
        if before is None or after is None or before < since:
            return None
        return after - before


def cases(tokenizer: Any, num_new_tokens: int) -> dict[str, Request]:
    """A request of every kind behind every prompt, by name."""
    found = {}
    for (kind, fields), (index, prompt) in itertools.product(KINDS.items(), enumerate(PROMPTS)):
        ends: dict[str, Any] = {"eos_token_id": (tokenizer.eos_token_id,)} if "grammar" in fields else {}
        params = GenerationParams(max_new_tokens=num_new_tokens, seed=100 + index, **fields, **ends)
        ids = tuple(tokenizer.encode(prompt))
        found[f"{kind}-{index}"] = Request(request_id=f"{kind}-{index}", prompt_token_ids=ids, params=params)
    return found


async def follow(client: GenerationClient, request: Request, model: str, stream: Stream) -> None:
    """Run one request and enter into ``stream`` what comes of it."""
    mine = msgspec.structs.replace(request, request_id=f"{request.request_id}-{uuid.uuid4().hex[:8]}")
    stream.times.append(time.monotonic())
    try:
        async for delta in client.generate(mine, model):
            assert delta.start == len(stream.token_ids), "tokens were lost or came twice"
            stream.token_ids += delta.token_ids
            stream.num_logprobs += len(delta.logprobs or ())
            stream.times.append(time.monotonic())
            stream.reason, stream.error = delta.finish_reason, delta.error
    except Exception as error:
        stream.error = f"{type(error).__name__}: {error}"


class Crowd:
    """Keeps ``size`` streams running at all times, until it is told to let them end."""

    def __init__(self, client: GenerationClient, model: str, requests: Iterable[Request], size: int) -> None:
        self._client = client
        self._model = model
        self._requests = itertools.cycle(requests)
        self._tasks = [asyncio.create_task(self._run()) for _ in range(size)]
        self._is_closing = False
        self.streams: list[Stream] = []

    def open(self) -> list[Stream]:
        """Return the streams that have not ended."""
        return [stream for stream in self.streams if stream.is_open]

    async def finish(self) -> None:
        """Let what runs end, and start nothing new."""
        self._is_closing = True
        await asyncio.gather(*self._tasks)

    async def _run(self) -> None:
        while not self._is_closing:
            request = next(self._requests)
            stream = Stream(request.request_id)
            self.streams.append(stream)
            await follow(self._client, request, self._model, stream)
