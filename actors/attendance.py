"""When each client last gave a sign of life."""

from collections.abc import Callable

CLIENT_TIMEOUT = 10.0  # seconds without a sign of life after which a client's requests are dropped


class Attendance:
    """Clients by id. One that was taken for dead, and is not, comes back with its journals."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen_at: dict[str, float] = {}

    def note(self, client_id: str) -> None:
        """Note a sign of life."""
        self._seen_at[client_id] = self._clock()

    def take_lost(self) -> list[str]:
        """Return the clients that have been silent for too long, and forget them."""
        now = self._clock()
        lost = [client_id for client_id, seen_at in self._seen_at.items() if now - seen_at > CLIENT_TIMEOUT]
        for client_id in lost:
            del self._seen_at[client_id]
        return lost
