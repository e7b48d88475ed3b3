"""Tokens on a terminal: text as it becomes whole, coloured by who wrote it, and the figures of a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click

from actors.engine.request import Delta

DRAFTED = "green"
NUM_CONTEXT_TOKENS = 8
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TokenPrinter:
    """Prints deltas to stdout. On a terminal, drafted tokens that were accepted are coloured; a pipe gets plain text.

    Tokens are decoded with those before them, as their text can depend on them; what ends in half a character waits.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt_ids: Sequence[int]) -> None:
        self._decode = decode
        self._context = list(prompt_ids[-NUM_CONTEXT_TOKENS:])
        self._pending: list[int] = []

    def put(self, delta: Delta) -> None:
        """Print the text that a delta completes."""
        for index, token_id in enumerate(delta.token_ids):
            self._pending.append(token_id)
            text = self._text()
            if not text.endswith(_INCOMPLETE):
                self._print(text, is_drafted=index < delta.num_accepted)

    def end(self) -> None:
        """Print what is left, and a line end."""
        self._print(self._text(), is_drafted=False)
        click.echo()

    def _text(self) -> str:
        """What the pending tokens add to the text of those before."""
        return self._decode([*self._context, *self._pending])[len(self._decode(self._context)) :]

    def _print(self, text: str, *, is_drafted: bool) -> None:
        click.secho(text, fg=DRAFTED if is_drafted else None, nl=False)
        self._context = [*self._context, *self._pending][-NUM_CONTEXT_TOKENS:]
        self._pending = []


@dataclass
class RunSummary:
    """Figures of one request. Times in seconds from when it was handed over."""

    num_tokens: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    first_time: float = 0.0
    last_time: float = 0.0

    def add(self, delta: Delta, elapsed: float) -> None:
        """Count a delta that came after ``elapsed`` seconds."""
        if delta.token_ids and not self.num_tokens:
            self.first_time = elapsed
        self.num_tokens += len(delta.token_ids)
        self.num_drafted += delta.num_drafted
        self.num_accepted += delta.num_accepted
        self.last_time = elapsed

    def line(self, seed: int | None) -> str:
        """The figures in one line."""
        speed = self.num_tokens / self.last_time if self.last_time else 0.0
        parts = [f"{self.num_tokens} tokens", f"{speed:.1f} tokens/s", f"first after {self.first_time:.2f} s"]
        if self.num_drafted:
            rate = self.num_accepted / self.num_drafted
            parts.append(f"{self.num_accepted} of {self.num_drafted} drafted tokens accepted ({rate:.0%})")
        if seed is not None:
            parts.append(f"seed {seed}")
        return " · ".join(parts)
