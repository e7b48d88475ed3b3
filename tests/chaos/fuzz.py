"""Whatever a client could send: schemathesis over the server's own OpenAPI, valid and broken data, beside a canary."""

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation
from tqdm import tqdm

from actors.config import RouterConfig
from actors.engine.config import EngineConfig
from cluster.config import LimitsConfig
from tests.chaos.outcome import Outcome
from tests.served import JSON, embedded, served

COUNT = 100  # examples of each operation, valid ones and broken ones each
TIMEOUT = 120.0
MAX_NUM_KEPT = 10
Operation = APIOperation[Any, Any, Any, Any]
Call = Case[Any]
LIMITS = LimitsConfig(max_num_sequences=8, max_num_prompts=8, max_n=8, max_body_bytes=65536)


@dataclass
class Tally:
    """What came back: how often each status by operation, and the requests that met a failure of the server's."""

    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    broken: list[dict[str, Any]] = field(default_factory=list)

    @property
    def num_requests(self) -> int:
        """Answers in all."""
        return sum(sum(counts.values()) for counts in self.statuses.values())

    def note(self, case: Call, status: int, text: str) -> None:
        """Enter one answer."""
        name = f"{case.method} {case.path}"
        self.statuses.setdefault(name, Counter())[status] += 1
        if status >= 500 and len(self.broken) < MAX_NUM_KEPT:
            self.broken.append({"request": name, "body": repr(case.body)[:1000], "status": status, "text": text[:500]})


def fuzz(base_url: str, num_examples: int, first_seed: int) -> Tally:
    """Call every operation with ``num_examples`` valid and as many broken inputs."""
    api = schemathesis.openapi.from_url(f"{base_url}/docs/openapi.json")
    operations: list[Operation] = [found.ok() for found in api.get_all_operations()]  # type: ignore[union-attr]
    tally = Tally()
    modes = [(operation, mode) for operation in operations for mode in GenerationMode]
    with tqdm(modes, unit="operation", dynamic_ncols=True) as progress:
        for operation, mode in progress:
            progress.set_description(f"{operation.label} {mode.value}")
            if mode is GenerationMode.NEGATIVE and not can_be_broken(operation):
                continue
            call_all(operation, mode, base_url, num_examples, first_seed, tally)
    return tally


def can_be_broken(operation: Operation) -> bool:
    """Whether an operation takes anything that could be wrong; a name in a path is a text, and so is everything."""
    return bool(operation.body)


def call_all(
    operation: Operation,
    mode: GenerationMode,
    base_url: str,
    num_examples: int,
    first_seed: int,
    tally: Tally,
) -> None:
    """Call one operation with inputs of one kind."""

    @seed(first_seed)
    @settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def call(case: Call) -> None:
        response = case.call(base_url=base_url, timeout=TIMEOUT)
        tally.note(case, response.status_code, response.text)

    call()


class Canary(threading.Thread):
    """Streams the same text over and over; ``texts`` are the different ones that came."""

    BODY: dict[str, Any] = {"prompt": "It was a dark night", "max_tokens": 24, "stream": True, "seed": 5}  # noqa: RUF012

    def __init__(self, base_url: str) -> None:
        super().__init__(daemon=True)
        self._url = f"{base_url}/v1/completions"
        self._is_over = threading.Event()
        self.texts: set[str] = set()
        self.num_streams = 0
        self.problems: list[str] = []

    def run(self) -> None:
        """See :class:`threading.Thread`."""
        while not self._is_over.is_set():
            try:
                self.texts.add(self.sing())
                self.num_streams += 1
            except Exception as problem:
                self.problems.append(repr(problem))

    def sing(self) -> str:
        """One stream's text."""
        request = urllib.request.Request(self._url, json.dumps(self.BODY).encode(), JSON)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            lines = [line[6:] for line in response.read().decode().splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]", lines[-1]
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])

    def end(self) -> None:
        """Let the last stream end."""
        self._is_over.set()
        self.join(TIMEOUT)


@contextmanager
def canary(base_url: str) -> Iterator[Canary]:
    """A canary that sings while the context lasts, and once before it."""
    bird = Canary(base_url)
    bird.texts.add(bird.sing())
    bird.start()
    try:
        yield bird
    finally:
        bird.end()


def run(count: int, seed: int) -> Outcome:
    """Fuzz a server with the embedded pair."""
    config = embedded(
        limits=LIMITS,
        engine=EngineConfig(num_blocks=512, max_num_seqs=32, max_model_len=128),
        router=RouterConfig(num_assistant_tokens=4),
    )
    with served(config) as server:
        url = f"http://127.0.0.1:{server.port}"
        pids = server.pids()
        with canary(url) as bird:
            tally = fuzz(url, count, seed)
        are_same = pids == server.pids()
    failures = [f"{case['status']} for {case['request']}: {case['body']}" for case in tally.broken]
    failures += [] if len(bird.texts) == 1 else [f"the canary's text changed: {sorted(bird.texts)}"]
    failures += bird.problems + ([] if are_same else ["a worker was restarted"])
    return Outcome(
        name="fuzz",
        what="schemathesis over the server's OpenAPI, valid and negative data, beside a canary stream",
        figures={
            "examples_each": count,
            "requests": tally.num_requests,
            "responses_5xx": len(tally.broken),
            "statuses": {name: dict(sorted(counts.items())) for name, counts in sorted(tally.statuses.items())},
            "canary_streams": bird.num_streams,
            "canary_texts": len(bird.texts),
        },
        failures=failures,
    )
