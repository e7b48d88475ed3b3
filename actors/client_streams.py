"""The router's way to its clients: one stream a client, which carries all its requests."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable

from actors.engine.request import Delta
from actors.link import Link
from actors.messages import Deltas, Message

CLIENT_PREFIX = "client-"


class _Stream:
    """Messages that one client has yet to be sent."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.arrived = asyncio.Event()
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True
        self.arrived.set()


class ClientStreams:
    """A link that queues messages for clients and passes on those for workers. Lives on one event loop."""

    def __init__(self, workers: Link) -> None:
        self._workers = workers
        self._streams: dict[str, _Stream] = {}

    def send(self, peer: str, message: Message) -> None:
        """Send one message to a client or a worker."""
        if not peer.startswith(CLIENT_PREFIX):
            self._workers.send(peer, message)
            return
        stream = self._streams.setdefault(peer, _Stream())
        stream.messages.append(message)
        stream.arrived.set()

    async def listen(self, client_id: str) -> AsyncIterator[Message]:
        """Yield what there is for a client, waiting for it, until the client listens anew or is dropped.

        What has gathered while the last message was on its way goes out together; nothing is held back for company.
        """
        stream = _Stream()
        old = self._streams.get(client_id)
        if old is not None:
            stream.messages.extend(old.messages)
            old.messages.clear()
            old.close()
        self._streams[client_id] = stream
        if stream.messages:
            stream.arrived.set()
        while not stream.is_closed:
            await stream.arrived.wait()
            stream.arrived.clear()
            messages = list(stream.messages)
            stream.messages.clear()
            for message in merge(messages):
                yield message

    def take(self, client_id: str) -> list[Message]:
        """End a client's stream, and return what it has yet to be sent: it goes another way."""
        stream = self._streams.pop(client_id, None)
        if stream is None:
            return []
        messages = merge(stream.messages)
        stream.messages.clear()
        stream.close()
        return messages

    def drop(self, client_ids: Iterable[str]) -> None:
        """End the streams of clients that are gone."""
        for client_id in client_ids:
            stream = self._streams.pop(client_id, None)
            if stream is not None:
                stream.close()


def merge(messages: Iterable[Message]) -> list[Message]:
    """Return the messages with runs of deltas from one worker joined into one message each."""
    merged: list[Message] = []
    items: list[Delta] = []
    for message in messages:
        last = merged[-1] if merged else None
        if isinstance(message, Deltas) and isinstance(last, Deltas) and message.worker_id == last.worker_id:
            items.extend(message.items)
            merged[-1] = Deltas(worker_id=message.worker_id, items=tuple(items))
            continue
        items = list(message.items) if isinstance(message, Deltas) else []
        merged.append(message)
    return merged
