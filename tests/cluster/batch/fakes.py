"""Answerers without a cluster."""

import asyncio
import json
from dataclasses import dataclass, field

from cluster.batch.answering import Answer, Answerer
from cluster.config import ClusterConfig


@dataclass
class EchoAnswerer(Answerer):
    """Answers with the prompt and the seed; bodies may ask for trouble.

    ``{"status": 500}`` fails always; ``"times": 2`` only the first two times, then well.

    Attributes:
        is_up: whether it says that it serves.
    """

    is_up: bool = True
    pause: float = 0.0
    num_running: int = 0
    max_num_running: int = 0
    seen: list[str] = field(default_factory=list)

    async def answer(self, url: str, body: bytes, seed: int) -> Answer:
        """See :class:`Answerer`."""
        asked = json.loads(body)
        prompt = asked["prompt"]
        self.seen.append(prompt)
        self.num_running += 1
        self.max_num_running = max(self.max_num_running, self.num_running)
        await asyncio.sleep(asked.get("pause", self.pause))
        self.num_running -= 1
        if "status" in asked and self.seen.count(prompt) <= asked.get("times", 1000):
            return Answer(status_code=asked["status"], body=b'{"error":{"message":"as asked"}}')
        text = json.dumps({"text": f"{prompt}/{asked.get('seed', seed)}"}).encode()
        return Answer(status_code=200, body=text, num_prompt_tokens=3, num_completion_tokens=5)

    async def is_serving(self) -> bool:
        """See :class:`Answerer`."""
        return self.is_up


async def open_echo(config: ClusterConfig) -> Answerer:
    """Connects to nothing."""
    return EchoAnswerer()
