"""How long something was the case, summed over all times that it was."""

from dataclasses import dataclass


@dataclass
class Stopwatch:
    """Sums the seconds in which a worker waited. All times are seconds of the caller's clock."""

    total: float = 0.0
    _since: float | None = None

    def note(self, now: float, *, is_waiting: bool) -> None:
        """Say whether it waits now; what lies between two calls counts as the first of them said."""
        if self._since is not None:
            self.total += now - self._since
        self._since = now if is_waiting else None
