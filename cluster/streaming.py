"""Feeds a transformers streamer: the prompt, then a token of every row at a time, then the end."""

from typing import Protocol

import torch

from cluster.outputs import EmittedRows


class Streamer(Protocol):
    """transformers' ``BaseStreamer``."""

    def put(self, value: torch.Tensor) -> None:
        """Take the prompts (rows, width), or the next token of each row (rows,)."""

    def end(self) -> None:
        """Take note that generation is over."""


class StreamFeed:
    """Hands columns of new tokens to a streamer as soon as every row has one.

    A cluster's rows advance at their own pace, several accepted tokens at once; a streamer expects one token a row and
    call. Rows that have ended give padding, as in transformers.
    """

    def __init__(self, streamer: Streamer, pad_token_id: int) -> None:
        self._streamer = streamer
        self._pad_token_id = pad_token_id
        self._num_columns = 0

    def begin(self, input_ids: torch.Tensor) -> None:
        """Hand over the prompts."""
        self._streamer.put(input_ids.cpu())

    def advance(self, emitted: EmittedRows) -> None:
        """Hand over the columns that are complete now."""
        while self._is_complete(emitted):
            column = [
                row[self._num_columns] if self._num_columns < len(row) else self._pad_token_id for row in emitted.rows
            ]
            self._num_columns += 1
            self._streamer.put(torch.tensor(column, dtype=torch.long))

    def end(self) -> None:
        """Tell the streamer that generation is over."""
        self._streamer.end()

    def _is_complete(self, emitted: EmittedRows) -> bool:
        has_token = [len(row) > self._num_columns for row in emitted.rows]
        return any(has_token) and all(
            has or finished for has, finished in zip(has_token, emitted.is_finished, strict=True)
        )
