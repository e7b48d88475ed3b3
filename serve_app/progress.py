"""Progress for a person at a terminal: a line a stage, with the time since the start."""

import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Writes lines such as ``[  3.2 s] starting Serve``."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._begin = clock()
        self._said: set[str] = set()

    def say(self, words: str) -> None:
        """Write a line."""
        self._out.write(f"[{self._clock() - self._begin:5.1f} s] {words}\n")
        self._out.flush()

    def say_once(self, words: str) -> None:
        """Write a line unless it was written before."""
        if words not in self._said:
            self._said.add(words)
            self.say(words)
