"""A call of transformers' own ``generate`` on its way into a target's engine thread, and what comes back out."""

import copy
import queue
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from actors.engine.errors import GenerationError

if TYPE_CHECKING:
    from actors.engine.declared_call import DeclaredCall
    from actors.engine.native_generation import NativeCall

ALIVE_INTERVAL = 1.0
SMALL_FIELDS = ("sequences", "sequences_scores", "beam_indices")


@dataclass(frozen=True)
class Tokens:
    """What a streamer gets next: a tensor of ids, or of a declared call a tuple of them."""

    token_ids: Any


@dataclass(frozen=True)
class Finished:
    """The call's result, as transformers returned it."""

    output: Any


@dataclass(frozen=True)
class Output:
    """The call's result without its large fields.

    Attributes:
        value: a tensor, or whatever a ``custom_generate`` returned; None where there is a ``kind``.
        kind: class of the output, transformers' or :class:`actors.engine.declared_call.PlainOutput`, or None.
        small: its fields that come with this.
        large: names of its other fields, in the order in which they follow.
    """

    value: Any = None
    kind: type | None = None
    small: Mapping[str, Any] = field(default_factory=dict)
    large: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """The error that ended the call."""

    error: Exception


Event = Tokens | Finished | Failed


@dataclass(frozen=True)
class NativeJob:
    """One call and the queue of its events, which the thread of the actor's own call reads.

    Fulfils :class:`actors.engine.native_generation.Events`.
    """

    job_id: str
    call: "NativeCall | DeclaredCall"
    events: "queue.SimpleQueue[Event]" = field(default_factory=queue.SimpleQueue)

    def put(self, token_ids: Any) -> None:
        """Enter what a streamer gets."""
        self.events.put(Tokens(token_ids))

    def finish(self, output: Any) -> None:
        """Enter the result."""
        self.events.put(Finished(output))

    def fail(self, error: Exception) -> None:
        """Enter the error."""
        self.events.put(Failed(portable(error)))

    def read(self, is_alive: Callable[[], bool]) -> Iterator[Event]:
        """Events as they come, the last one Finished or Failed. Raises GenerationError where none can come any more."""
        while True:
            try:
                event = self.events.get(timeout=ALIVE_INTERVAL)
            except queue.Empty:
                if not is_alive():
                    raise GenerationError("the engine thread has ended") from None
                continue
            yield event
            if not isinstance(event, Tokens):
                return


@dataclass(frozen=True)
class CancelJob:
    """A caller has given up a job."""

    job_id: str


def split_output(output: Any) -> tuple[Output, list[Any]]:
    """Return an output without its large fields, and these in the order that it names."""
    fields = getattr(output, "__dataclass_fields__", None)
    if fields is None:
        return Output(value=output), []
    values = {name: getattr(output, name) for name in fields if getattr(output, name) is not None}
    large = {name: value for name, value in values.items() if name not in SMALL_FIELDS}
    small = {name: value for name, value in values.items() if name in SMALL_FIELDS}
    return Output(kind=type(output), small=small, large=tuple(large)), list(large.values())


def portable(error: Exception) -> Exception:
    """The error itself where it survives the journey to another process, else its text and notes in one that does."""
    try:
        copy.deepcopy(error)  # by the same means as pickle
    except Exception:
        plain = GenerationError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            plain.add_note(note)
        return plain
    return error
