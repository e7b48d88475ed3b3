"""Sequences that wait for their grammar to be compiled."""

from concurrent.futures import FIRST_COMPLETED, wait

from actors.engine.sequence import Sequence

MAX_WAIT = 0.005  # seconds that an engine without other work waits in one step, so that it stays reachable


class GrammarQueue:
    """Belongs to one engine. The scheduler passes these sequences over until their grammar is there."""

    def __init__(self) -> None:
        self._waiting: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Take a sequence on."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence; one that is not here is passed over."""
        self._waiting = [other for other in self._waiting if other is not sequence]

    def take(self, *, is_idle: bool) -> list[Sequence]:
        """Remove and return the sequences whose compiler is done; wait a moment for one if nothing else is to do."""
        if is_idle and self._waiting:
            compiling = [s.grammar.grammar.future for s in self._waiting if s.grammar is not None]
            wait(compiling, timeout=MAX_WAIT, return_when=FIRST_COMPLETED)
        done = [s for s in self._waiting if s.is_compiled]
        self._waiting = [s for s in self._waiting if not s.is_compiled]
        return done
