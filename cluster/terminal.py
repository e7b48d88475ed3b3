"""Tokens on a terminal: text as it becomes whole, coloured by who wrote it, and the figures of a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click

from actors.engine.request import Delta
from cluster.detokenizer import Detokenizer

DRAFTED = "green"


class TokenPrinter:
    """Prints deltas to stdout. On a terminal, accepted drafted tokens are coloured; a pipe gets plain text."""

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt_ids: Sequence[int]) -> None:
        self._detokenizer = Detokenizer(decode, prompt_ids)

    def put(self, delta: Delta) -> None:
        """Print the text that a delta completes."""
        for index, token_id in enumerate(delta.token_ids):
            text = self._detokenizer.push(token_id)
            if text:
                click.secho(text, fg=DRAFTED if index < delta.num_accepted else None, nl=False)

    def end(self) -> None:
        """Print what is left, and a line end."""
        click.echo(self._detokenizer.flush())


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
