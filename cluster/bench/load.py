"""A client that puts a server with OpenAI's API under load, and takes down when each piece of each stream came."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from actors.engine.errors import SlipstreamError

if TYPE_CHECKING:
    import aiohttp

Endpoint = Literal["completions", "chat"]
PATHS: dict[Endpoint, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
DRAFTED, ACCEPTED = "spec_decode_num_draft_tokens_total", "spec_decode_num_accepted_tokens_total"
DONE = b"[DONE]"
MAX_LINE_BYTES = 2**20


class LoadError(SlipstreamError):
    """The server cannot be measured: it is not there, or it lists no models."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of which server.

    Attributes:
        url: of the server.
        model: as it names it; None takes the first that it lists.
        temperature: 0 is greedy.
        timeout: seconds after which a request has failed.
    """

    url: str
    model: str | None = None
    endpoint: Endpoint = "completions"
    api_key: str | None = None
    max_tokens: int = 128
    temperature: float = 0.0
    ignore_eos: bool = False
    timeout: float = 600.0

    def body(self, prompt: str, model: str) -> dict[str, Any]:
        """Of a request."""
        asked = {"prompt": prompt} if self.endpoint == "completions" else {"messages": [_message(prompt)]}
        extra = {"ignore_eos": True} if self.ignore_eos else {}
        return {
            "model": model,
            **asked,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            **extra,
        }


@dataclass(frozen=True)
class Served:
    """One request: seconds from its start to each piece with text, its tokens, or why it failed."""

    arrivals: tuple[float, ...] = ()
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    error: str = ""

    @property
    def seconds_per_token(self) -> float | None:
        """From the first token on; None for a single token."""
        if self.error or self.num_tokens < 2:
            return None
        return (self.arrivals[-1] - self.arrivals[0]) / (self.num_tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Seconds between two pieces."""
        return [after - before for before, after in itertools.pairwise(self.arrivals)]


@dataclass(frozen=True)
class Drafting:
    """Drafted and accepted tokens of a server in all."""

    num_drafted: float
    num_accepted: float


class LoadClient:
    """A session with a server. Used from one event loop.

    Args:
        load: what to ask.
        session: sends requests.
        clock: seconds.
    """

    def __init__(
        self, load: Load, session: "aiohttp.ClientSession", clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._load = load
        self._url = load.url.rstrip("/")
        self._session = session
        self._clock = clock
        self._headers = {"Authorization": f"Bearer {load.api_key}"} if load.api_key else {}

    async def model(self) -> str:
        """The model to ask for. Raises LoadError where the server does not list one."""
        if self._load.model is not None:
            return self._load.model
        import aiohttp

        try:
            async with self._session.get(f"{self._url}/v1/models", headers=self._headers) as response:
                if response.status != 200:
                    raise LoadError(f"{self._url}/v1/models answers {response.status}: {(await response.text())[:200]}")
                listed = (await response.json())["data"]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            raise LoadError(f"no server with OpenAI's API at {self._url}: {error}") from None
        if not listed:
            raise LoadError(f"{self._url} serves no model yet")
        return str(listed[0]["id"])

    async def drafting(self) -> Drafting | None:
        """What the server has drafted, from its metrics in vLLM's words; None where it does not tell."""
        import aiohttp

        try:
            async with self._session.get(f"{self._url}/metrics", headers=self._headers) as response:
                text = await response.text() if response.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError):
            return None
        sums = read_counters(text, (DRAFTED, ACCEPTED))
        return None if len(sums) < 2 else Drafting(sums[DRAFTED], sums[ACCEPTED])

    async def run(self, prompts: Sequence[str], model: str, concurrency: int, done: Callable[[], Any]) -> list[Served]:
        """Run a request for each prompt, ``concurrency`` at a time; ``done`` is called after each."""
        slots = asyncio.Semaphore(concurrency)

        async def one(prompt: str) -> Served:
            async with slots:
                served = await self.request(prompt, model)
            done()
            return served

        return await asyncio.gather(*(one(prompt) for prompt in prompts))

    async def request(self, prompt: str, model: str) -> Served:
        """Run one request to its end. What goes wrong is told in its result."""
        import aiohttp

        began = self._clock()
        arrivals: list[float] = []
        usage: dict[str, int] = {}
        try:
            async with self._session.post(
                f"{self._url}{PATHS[self._load.endpoint]}",
                json=self._load.body(prompt, model),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=self._load.timeout),
            ) as response:
                if response.status != 200:
                    return Served(error=f"HTTP {response.status}: {(await response.text())[:200]}")
                async for event in _events(response.content):
                    if event.get("error"):
                        return Served(tuple(arrivals), error=str(event["error"])[:200])
                    if _has_text(event):
                        arrivals.append(self._clock() - began)
                    usage = event.get("usage") or usage
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return Served(tuple(arrivals), error=f"{type(error).__name__}: {error}")
        if not arrivals:
            return Served(error="the stream had no text")
        count = usage.get("completion_tokens", len(arrivals))
        return Served(tuple(arrivals), count, usage.get("prompt_tokens", 0))


async def _events(content: "aiohttp.StreamReader") -> AsyncIterator[dict[str, Any]]:
    """Data of server-sent events, decoded, up to the end of the stream."""
    async for line in content:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("an event is too long")
        data = line[5:].strip() if line.startswith(b"data:") else b""
        if data == DONE:
            return
        if data:
            yield msgspec.json.decode(data, type=dict[str, Any])


def _has_text(event: dict[str, Any]) -> bool:
    return any(
        choice.get("text") or (choice.get("delta") or {}).get("content") for choice in event.get("choices") or ()
    )


def _message(prompt: str) -> dict[str, str]:
    return {"role": "user", "content": prompt}


def read_counters(text: str, names: Sequence[str]) -> dict[str, float]:
    """Sums of counters in Prometheus' text format, by the end of their names: prefixes are the server's own."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
        ending = name.strip().rpartition(":")[2]
        if ending in names:
            sums[ending] = sums.get(ending, 0.0) + float(rest.rsplit("}", 1)[-1].split()[0])
    return sums
