"""How many workers have died lately: where many do, a death says little about the requests that it met."""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import count

from actors.suspicion import Suspicion

WINDOW = 300.0  # seconds for which a death counts
MAX_LENIENCE = 4  # deaths elsewhere that may speak for a request


class Unrest:
    """Deaths of late, by number. Each request keeps the numbers of those that it was there for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._numbers = count()
        self._deaths: deque[tuple[float, int]] = deque()

    def note(self, present: Iterable[Suspicion] = ()) -> None:
        """Note a death, and what was ``present``."""
        number = next(self._numbers)
        self._deaths.append((self._clock(), number))
        for suspicion in present:
            suspicion.deaths.add(number)

    def lenience(self, suspicion: Suspicion) -> int:
        """Return the recent deaths that a request had nothing to do with, up to a bound."""
        while self._deaths and self._clock() - self._deaths[0][0] > WINDOW:
            self._deaths.popleft()
        return min(MAX_LENIENCE, sum(number not in suspicion.deaths for _, number in self._deaths))
