"""The seam between actors: how a message reaches a peer. Fakes stand here in tests, Ray or sockets in a cluster."""

from typing import Protocol

from actors.messages import Message


class Link(Protocol):
    """Sends messages to peers by name. Never blocks, never raises for a peer that is gone: loss is allowed."""

    def send(self, peer: str, message: Message) -> None:
        """Send one message to the actor named ``peer``."""
