"""A target and its drafts with real engines, their loops driven by one thread over a network without delay."""

import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.config import ROUTER_NAME, RouterConfig
from actors.draft_host import DraftHost
from actors.engine.protocol import TokenEngine
from actors.engine.request import FinishReason, Request
from actors.messages import Abort, Deltas, Message, Refuse, Start
from actors.status import WorkerInfo
from actors.target_loop import TargetLoop
from actors.translation import Translation


@dataclass(frozen=True)
class Draft:
    """A draft's engine, and what translates for it where its vocabulary is another."""

    engine: TokenEngine
    vocab_size: int
    translation: Translation | None = None


class Loops:
    """Runs requests to their ends, in turns that a seed decides: now a draft gets far ahead, now it is late.

    Args:
        target: its engine.
        drafts: by the name that a run asks for.
        config: how to draft.
        seed: of the turns.
    """

    def __init__(
        self, target: TokenEngine, vocab_size: int, drafts: Mapping[str, Draft], config: RouterConfig, seed: int = 0
    ) -> None:
        self._random = random.Random(seed)
        self._queue: deque[tuple[str, Message]] = deque()
        self._ids: dict[str, list[int]] = {}
        self._open: set[str] = set()
        info = WorkerInfo(worker_id="target", role="target", pool="demo", model="tiny", vocab_size=vocab_size)
        self.engine = target
        self._loops: dict[str, TargetLoop | DraftHost] = {
            "target": TargetLoop(target, self, info, ROUTER_NAME, config, time.monotonic)
        }
        for name, draft in drafts.items():
            info = WorkerInfo(worker_id=name, role="draft", pool="demo", model=name, vocab_size=draft.vocab_size)
            self._loops[name] = DraftHost(
                draft.engine, self, info, ROUTER_NAME, config, time.monotonic, draft.translation
            )

    def send(self, peer: str, message: Message) -> None:
        """See :class:`actors.link.Link`."""
        self._queue.append((peer, message))

    def run(self, requests: Sequence[Request], draft: str = "", worker: str = "target") -> list[list[int]]:
        """Emitted ids of requests that run together on a worker, with a draft ahead of them or none."""
        for request in requests:
            self._ids[request.request_id] = list(request.emitted_token_ids)
            self._open.add(request.request_id)
            self._loops[worker].handle(Start(request=request, draft_id=draft))
        while self._open:
            for name in self._random.sample(list(self._loops), len(self._loops)):
                self._deliver()
                for _ in range(self._random.randint(1, 3)):
                    self._loops[name].run_once()
        for request in requests:
            self._loops[worker].handle(Abort(request_id=request.request_id))
        return [self._ids.pop(request.request_id) for request in requests]

    def _deliver(self) -> None:
        while self._queue:
            peer, message = self._queue.popleft()
            if peer in self._loops:
                self._loops[peer].handle(message)
            elif isinstance(message, Deltas):
                for delta in message.items:
                    assert delta.finish_reason is not FinishReason.ERROR, delta.error
                    known = self._ids[delta.request_id]
                    assert delta.start == len(known)
                    known += delta.token_ids
                    if delta.finish_reason is not None:
                        self._open.discard(delta.request_id)
            else:
                assert not isinstance(message, Refuse), message
